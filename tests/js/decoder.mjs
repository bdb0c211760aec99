// A decoder of `tsae-1` in plain JavaScript, written from docs/FORMAT.md alone: proof that another language can follow it.
//
//     node decoder.mjs MODEL.safetensors < streams.json > pixels
//
// streams.json is a list of [quality, stream in hexadecimal digits]; the pixels are 3,072 bytes an image, row by row, RGB.
import { readFileSync } from "node:fs";

const clip = (x, low, high) => Math.min(Math.max(x, low), high);
const shiftRight = (x, bits) => Math.floor(x / 2 ** bits); // as >>, but for up to 53 bits

const TYPES = { I8: Int8Array, U8: Uint8Array, I16: Int16Array, U16: Uint16Array, I32: Int32Array, F32: Float32Array };

export function readTensors(file) {
  const headerBytes = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + headerBytes)));
  const tensors = {};
  delete header.__metadata__;
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
    const bytes = file.slice(8 + headerBytes + start, 8 + headerBytes + end); // copied: typed arrays must be aligned
    tensors[name] = { shape, data: new TYPES[dtype](bytes.buffer, bytes.byteOffset, bytes.byteLength / TYPES[dtype].BYTES_PER_ELEMENT) };
  }
  return tensors;
}

class RangeDecoder {
  constructor(stream) {
    this.stream = stream;
    this.place = 0;
    this.range = 2 ** 32 - 1;
    this.code = 0;
    for (let i = 0; i < 4; i++) this.code = this.code * 256 + this.nextByte();
  }

  nextByte() {
    const byte = this.place < this.stream.length ? this.stream[this.place] : 0;
    this.place++;
    return byte;
  }

  take(low, high, r) {
    this.code -= low * r;
    this.range = (high - low) * r;
    while (this.range < 2 ** 24) {
      this.code = this.code * 256 + this.nextByte();
      this.range *= 256;
    }
  }

  // The interval of a table, from entry `first` to entry `last`.
  interval(cumulative, first, last) {
    const r = Math.floor(this.range / 32768);
    if (this.code >= 32768 * r) throw new Error("damaged stream");
    let j = first;
    while (cumulative[j + 1] * r <= this.code) j++;
    this.take(cumulative[j], cumulative[j + 1], r);
    return { number: j - first, isLast: j + 1 === last };
  }

  bits(n) {
    const r = Math.floor(this.range / 32768), size = 2 ** (15 - n);
    const value = Math.floor(this.code / (size * r));
    if (value >= 2 ** n) throw new Error("damaged stream");
    this.take(value * size, (value + 1) * size, r);
    return value;
  }
}

// The latents of one image, [C][64].
export function decodeLatents(tensors, quality, stream) {
  const table = (name) => tensors[`tables.${name}`].data;
  const [C, H] = tensors["tables.mean_head"].shape;
  const owns = tensors["tables.own_weight"].shape[0];
  const q = quality - 1, decoder = new RangeDecoder(stream);
  const gathered = Array.from({ length: 64 }, (_, p) =>
    Array.from({ length: H }, (_, h) => table("field_start")[q * H + h] + table("field_position")[p * H + h]));
  const add = (field, row, column, weights, base, a, b) => {
    if (row < 0 || row > 7 || column < 0 || column > 7) return;
    const cell = field[8 * row + column];
    for (let h = 0; h < H; h++) cell[h] += weights[base + h] * a + weights[base + H + h] * b;
  };
  const latents = [];
  let c = 0;
  for (const size of table("slices")) {
    const field = gathered.map((cell) => cell.slice());
    for (const end = c + size; c < end; c++) {
      const values = new Array(64).fill(0), magnitudes = new Array(64).fill(0);
      latents.push(values);
      if (!table("active")[q * C + c]) continue;
      for (let p = 0; p < 64; p++) {
        const y = p >> 3, x = p & 7;
        let mean = table("mean_start")[c * 64 + p], scale = table("scale_start")[c * 64 + p];
        for (let h = 0; h < H; h++) {
          const active = clip(shiftRight(field[p][h], 8), 0, 8191);
          mean += table("mean_head")[c * H + h] * active;
          scale += table("scale_head")[c * H + h] * active;
        }
        for (let t = 0; t < 12; t++) {
          const row = y - 2 + Math.floor(t / 5), column = x - 2 + (t % 5);
          if (row < 0 || column < 0 || column > 7) continue;
          mean += table("mean_causal")[c * 12 + t] * values[8 * row + column];
          scale += table("scale_causal")[c * 12 + t] * magnitudes[8 * row + column];
        }
        const sixteenths = clip(shiftRight(mean * table("gain")[q * C + c] + 2 ** 27, 28), -16368, 16368);
        const nearest = (sixteenths + 8) >> 4;
        const rows = table("table_least").length / 16;
        const number = 16 * clip(shiftRight(scale + table("log_gain")[q * C + c], 18), 0, rows - 1) + sixteenths + 8 - 16 * nearest;
        const found = decoder.interval(table("cumulative"), table("table_first")[number], table("table_first")[number + 1] - 1);
        let symbol = nearest + table("table_least")[number] + found.number;
        if (found.isLast) {
          const head = decoder.bits(5);
          symbol = decoder.bits(head & 15) * (head >> 4 ? -1 : 1);
        }
        if (Math.abs(symbol) > 1023) throw new Error("damaged stream");
        if (symbol === 0) continue;
        const a = clip((symbol * table("step")[q * C + c] + 8) >> 4, -4095, 4095);
        const b = table("magnitude")[Math.min(Math.abs(symbol), 255)];
        values[p] = a;
        magnitudes[p] = b;
        for (let t = 0; t < 9; t++)
          add(gathered, y + 1 - Math.floor(t / 3), x + 1 - (t % 3), table("field_weight"), (c * 9 + t) * 2 * H, a, b);
        if (c < owns)
          for (let t = 0; t < 12; t++)
            add(field, y + 2 - Math.floor(t / 5), x + 2 - (t % 5), table("own_weight"), (c * 12 + t) * 2 * H, a, b);
      }
    }
  }
  if (decoder.place < stream.length) throw new Error("damaged stream");
  return latents;
}

// One layer; `isMix` weighs 5x5 positions of one channel, else all channels of one position. Values are [channel][64].
function runLayer(tensors, name, quality, input, isMix) {
  const { shape: [outputs, taps], data: weight } = tensors[`${name}.weight`];
  const { shape: [rows], data: bias } = tensors[`${name}.bias`], shift = tensors[`${name}.shift`].data;
  return Array.from({ length: outputs }, (_, o) => {
    const start = bias[Math.min(quality - 1, rows - 1) * outputs + o] + 2 ** (shift[o] - 1);
    return Array.from({ length: 64 }, (_, p) => {
      let sum = start;
      for (let t = 0; t < taps; t++) {
        if (!isMix) sum += weight[o * taps + t] * input[t][p];
        else {
          const row = (p >> 3) + Math.floor(t / 5) - 2, column = (p & 7) + (t % 5) - 2;
          if (row >= 0 && row < 8 && column >= 0 && column < 8) sum += weight[o * taps + t] * input[o][8 * row + column];
        }
      }
      return sum >> shift[o];
    });
  });
}

export function synthesize(tensors, quality, latents) {
  const layers = Object.keys(tensors).filter((name) => /^synthesis\.\d+\.weight$/.test(name)).length;
  const layer = (n, input, isMix = false) => runLayer(tensors, `synthesis.${n}`, quality, input, isMix);
  const each = (values, f) => values.map((row, c) => row.map((x, p) => f(x, c, p)));
  let t = each(layer(0, latents), (x) => clip(x, -4095, 4095));
  for (let n = 1; n < layers - 1; n += 3) {
    const m = each(layer(n, t, true), (x) => clip(x, -2047, 2047));
    const h = each(layer(n + 1, m), (x) => clip(x, 0, 2047));
    const added = layer(n + 2, h);
    t = each(t, (x, c, p) => clip(x + added[c][p], -4095, 4095));
  }
  const patches = layer(layers - 1, t), pixels = new Uint8Array(3072);
  for (let o = 0; o < 48; o++)
    for (let p = 0; p < 64; p++) {
      const row = 4 * (p >> 3) + Math.floor(o / 12), column = 4 * (p & 7) + Math.floor((o % 12) / 3);
      pixels[(32 * row + column) * 3 + (o % 3)] = clip(patches[o][p] + 128, 0, 255);
    }
  return pixels;
}

if (process.argv[2]) {
  const tensors = readTensors(new Uint8Array(readFileSync(process.argv[2])));
  for (const [quality, hex] of JSON.parse(readFileSync(0, "utf8"))) {
    const stream = Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
    process.stdout.write(synthesize(tensors, quality, decodeLatents(tensors, quality, stream)));
  }
}
