// Entropy-coded streams to latents: docs/FORMAT.md, "Entropy-coded latents". All integers; a field, a mean and a scale stay
// within 32 bits, only the product with the gain needs a double.
import { DamagedStream, RangeDecoder } from "./range.js";

const GRID = 8, CELLS = 64, FIELD_TAPS = 9, CAUSAL_TAPS = 12;
const MOST_LATENT = 4095, MOST_ACTIVE = 8191, MOST_SIXTEENTHS = 16368, MOST_SYMBOL = 1023;
const HALF_28 = 2 ** 27, TO_28 = 2 ** -28;

const clip = (x, low, high) => (x < low ? low : x > high ? high : x);

// For each cell the cells of a stencil that are inside the grid, as pairs of tap and cell.
function neighbours(taps, place) {
  return Array.from({ length: CELLS }, (_, p) => {
    const found = [];
    for (let t = 0; t < taps; t++) {
      const [row, column] = place(p >> 3, p & 7, t);
      if (row >= 0 && row < GRID && column >= 0 && column < GRID) found.push(t, GRID * row + column);
    }
    return Int32Array.from(found);
  });
}

const FIELD = neighbours(FIELD_TAPS, (y, x, t) => [y + 1 - Math.floor(t / 3), x + 1 - (t % 3)]);
const OWN = neighbours(CAUSAL_TAPS, (y, x, t) => [y + 2 - Math.floor(t / 5), x + 2 - (t % 5)]);
const CAUSAL = neighbours(CAUSAL_TAPS, (y, x, t) => [y - 2 + Math.floor(t / 5), x - 2 + (t % 5)]);

// Values of means and scales, in turn.
function interleave(means, scales) {
  const both = new Int32Array(2 * means.length);
  for (let i = 0; i < means.length; i++) {
    both[2 * i] = means[i];
    both[2 * i + 1] = scales[i];
  }
  return both;
}

export class LatentDecoder {
  constructor(tensors) {
    const table = (name) => tensors[`tables.${name}`].data;
    [this.channels, this.width] = tensors["tables.mean_head"].shape;
    this.owns = tensors["tables.own_weight"].shape[0];
    this.qualities = tensors["tables.active"].shape[0];
    this.rows = table("table_least").length / 16;
    for (const name of ["slices", "active", "gain", "step", "log_gain", "field_start", "field_position", "magnitude"])
      this[name] = table(name);
    this.cumulative = table("cumulative");
    this.tableFirst = table("table_first");
    this.tableLeast = table("table_least");
    this.fieldWeight = Int32Array.from(table("field_weight"));
    this.ownWeight = Int32Array.from(table("own_weight"));
    this.start = interleave(table("mean_start"), table("scale_start"));
    this.head = interleave(table("mean_head"), table("scale_head"));
    this.causal = interleave(table("mean_causal"), table("scale_causal"));
    this.mean = 0;
    this.scale = 0;
    this.gathered = new Int32Array(CELLS * this.width);
    this.field = new Int32Array(CELLS * this.width);
    this.heard = new Int32Array(CELLS * this.width); // what predictions see of the field
    this.magnitudes = new Int32Array(CELLS);
  }

  // The latents of a stream, Int32Array [channels, 64]. `bits`, a Float64Array of `channels`, takes what each channel cost.
  decode(quality, stream, latents = new Int32Array(this.channels * CELLS), bits = null) {
    if (quality < 1 || quality > this.qualities) throw new Error(`a model of ${this.qualities} qualities has no quality ${quality}`);
    const decoder = new RangeDecoder(stream);
    decoder.counts = bits !== null;
    latents.fill(0);
    this.startField(quality - 1);
    let c = 0;
    for (const size of this.slices) {
      this.field.set(this.gathered);
      if (c >= this.owns) this.hear(0, this.field.length);
      for (const end = c + size; c < end; c++) {
        if (!this.active[(quality - 1) * this.channels + c]) continue;
        const before = decoder.bitsRead;
        this.decodeChannel(decoder, quality - 1, c, latents.subarray(c * CELLS, (c + 1) * CELLS));
        if (bits) bits[c] = decoder.bitsRead - before;
      }
    }
    decoder.end();
    return latents;
  }

  startField(q) {
    const { gathered, width } = this;
    for (let p = 0; p < CELLS; p++)
      for (let h = 0; h < width; h++)
        gathered[p * width + h] = this.field_start[q * width + h] + this.field_position[p * width + h];
  }

  hear(start, end) {
    const { field, heard } = this;
    for (let i = start; i < end; i++) heard[i] = clip(field[i] >> 8, 0, MOST_ACTIVE);
  }

  decodeChannel(decoder, q, c, latents) {
    const { magnitudes, width } = this;
    const gain = this.gain[q * this.channels + c], logGain = this.log_gain[q * this.channels + c];
    const step = this.step[q * this.channels + c], owns = c < this.owns;
    magnitudes.fill(0);
    for (let p = 0; p < CELLS; p++) {
      if (owns) this.hear(p * width, (p + 1) * width);
      this.predict(c, p, latents);
      const sixteenths = clip(Math.floor((this.mean * gain + HALF_28) * TO_28), -MOST_SIXTEENTHS, MOST_SIXTEENTHS);
      const nearest = (sixteenths + 8) >> 4;
      const row = clip(Math.floor((this.scale + logGain) / 262144), 0, this.rows - 1);
      const symbol = this.readSymbol(decoder, 16 * row + sixteenths + 8 - 16 * nearest, nearest);
      if (symbol === 0) continue;
      const a = clip((symbol * step + 8) >> 4, -MOST_LATENT, MOST_LATENT);
      const b = this.magnitude[Math.min(Math.abs(symbol), 255)];
      latents[p] = a;
      magnitudes[p] = b;
      this.add(this.gathered, FIELD[p], this.fieldWeight, c * FIELD_TAPS, a, b);
      if (owns) this.add(this.field, OWN[p], this.ownWeight, c * CAUSAL_TAPS, a, b);
    }
  }

  // Mean and scale of the symbol at `p`, from what is heard there and from the symbols before it.
  predict(c, p, latents) {
    const { heard, width, head, causal, magnitudes } = this, near = CAUSAL[p];
    let mean = this.start[2 * (c * CELLS + p)], scale = this.start[2 * (c * CELLS + p) + 1];
    for (let h = p * width, end = h + width, j = 2 * c * width; h < end; h++, j += 2) {
      const value = heard[h];
      mean = (mean + Math.imul(head[j], value)) | 0;
      scale = (scale + Math.imul(head[j + 1], value)) | 0;
    }
    for (let i = 0; i < near.length; i += 2) {
      const j = 2 * (c * CAUSAL_TAPS + near[i]), cell = near[i + 1];
      mean = (mean + Math.imul(causal[j], latents[cell])) | 0;
      scale = (scale + Math.imul(causal[j + 1], magnitudes[cell])) | 0;
    }
    this.mean = mean;
    this.scale = scale;
  }

  readSymbol(decoder, table, nearest) {
    const first = this.tableFirst[table], last = this.tableFirst[table + 1] - 1, least = this.tableLeast[table];
    const j = decoder.interval(this.cumulative, first, last, -least);
    let symbol = nearest + least + j;
    if (first + j + 1 === last) {
      const head = decoder.bits(5);
      symbol = decoder.bits(head & 15) * (head >> 4 ? -1 : 1);
    }
    if (symbol > MOST_SYMBOL || symbol < -MOST_SYMBOL) throw new DamagedStream();
    return symbol;
  }

  // Adds a latent and its magnitude to the field around it.
  add(field, near, weights, firstTap, a, b) {
    const { width } = this;
    for (let i = 0; i < near.length; i += 2) {
      const base = (firstTap + near[i]) * 2 * width, cell = near[i + 1] * width;
      for (let h = 0; h < width; h++)
        field[cell + h] = (field[cell + h] + Math.imul(weights[base + h], a) + Math.imul(weights[base + width + h], b)) | 0;
    }
  }
}
