// Latents to pixels in exact integers: docs/FORMAT.md, "Decoding tsae-1".
//
// All sums of a layer stay below 2^24, and a double holds 53 bits: so each double carries two positions of the grid, that of
// row y below and that of row y + 4 times 2^26, and one product computes both.
import { arrangeBias, arrangeWeights, multiply } from "./product.js";

const CELLS = 64, PAIRS = 32, UPPER = 2 ** 26, LOWER = 2 ** -26;
const PADDED_ROWS = 8, PADDED_COLUMNS = 12, PADDED = PADDED_ROWS * PADDED_COLUMNS;
const BOUND = { residual: 4095, mixed: 2047 };

class Layer {
  constructor(tensors, name) {
    const { shape: [outputs, taps], data: weights } = tensors[`${name}.weight`];
    const { shape: [rows], data: bias } = tensors[`${name}.bias`];
    this.outputs = outputs;
    this.taps = taps;
    this.shift = Int32Array.from(tensors[`${name}.shift`].data);
    this.weights = weights;
    this.bias = Array.from({ length: rows }, (_, q) => arrangeBias(
      Array.from(this.shift, (bits, o) => (bias[q * outputs + o] + 2 ** (bits - 1)) * (1 + UPPER))));
  }

  biasOf(quality) {
    return this.bias[Math.min(quality, this.bias.length) - 1];
  }

  // Takes the sums of output `o` apart, shifts and clips them to values [64]; or adds them to what is there first.
  finish(sums, o, values, low, high, adds) {
    const bits = this.shift[o];
    for (let i = o * PAIRS, v = o * CELLS, end = i + PAIRS; i < end; i++, v++) {
      const upper = Math.round(sums[i] * LOWER);
      let x = (sums[i] - upper * UPPER) >> bits, y = upper >> bits;
      if (adds) {
        x += values[v];
        y += values[v + PAIRS];
      }
      values[v] = x < low ? low : x > high ? high : x;
      values[v + PAIRS] = y < low ? low : y > high ? high : y;
    }
  }
}

class Dense extends Layer {
  constructor(tensors, name) {
    super(tensors, name);
    this.weights = arrangeWeights(this.weights, this.outputs, this.taps);
  }

  run(quality, values, room, out, low, high, adds = false) {
    for (let i = 0; i < this.taps * PAIRS; i++) {
      const v = (i >> 5) * CELLS + (i & 31);
      room.packed[i] = values[v] + values[v + PAIRS] * UPPER;
    }
    multiply(this.weights, this.biasOf(quality), room.packed, this.taps, PAIRS, room.sums);
    for (let o = 0; o < this.outputs; o++) this.finish(room.sums, o, out, low, high, adds);
  }
}

class Mix extends Layer {
  run(quality, values, room, out, low, high) {
    const bias = this.biasOf(quality), { padded, sums } = room;
    for (let c = 0; c < this.outputs; c++) {
      pad(values, c * CELLS, padded);
      this.sum(c, bias[c], padded, sums);
      this.finish(sums, c, out, low, high, false);
    }
  }

  sum(c, start, padded, sums) {
    const { weights } = this;
    for (let p = 0; p < PAIRS; p++) {
      const corner = (p >> 3) * PADDED_COLUMNS + (p & 7);
      let sum = start;
      for (let i = 0, w = c * 25; i < 5; i++, w += 5) {
        const v = corner + i * PADDED_COLUMNS;
        sum += weights[w] * padded[v] + weights[w + 1] * padded[v + 1] + weights[w + 2] * padded[v + 2]
          + weights[w + 3] * padded[v + 3] + weights[w + 4] * padded[v + 4];
      }
      sums[c * PAIRS + p] = sum;
    }
  }
}

// A channel in pairs, with two rows and columns of zeros around it: row r pairs rows r - 2 and r + 2 of the grid.
function pad(values, start, padded) {
  for (let r = 0; r < PADDED_ROWS; r++)
    for (let x = 0; x < 8; x++) {
      const lower = r >= 2 ? values[start + (r - 2) * 8 + x] : 0, upper = r < 6 ? values[start + (r + 2) * 8 + x] : 0;
      padded[r * PADDED_COLUMNS + x + 2] = lower + upper * UPPER;
    }
}

export class Synthesis {
  constructor(tensors) {
    const count = Object.keys(tensors).filter((name) => /^synthesis\.\d+\.weight$/.test(name)).length;
    this.layers = Array.from({ length: count }, (_, n) =>
      new (n > 0 && n < count - 1 && n % 3 === 1 ? Mix : Dense)(tensors, `synthesis.${n}`));
    const widest = 4 * Math.ceil(Math.max(...this.layers.map((layer) => Math.max(layer.outputs, layer.taps))) / 4);
    this.room = { packed: new Float64Array(widest * PAIRS), sums: new Float64Array(widest * PAIRS), padded: new Float64Array(PADDED) };
    [this.t, this.m, this.h] = [0, 1, 2].map(() => new Int32Array(widest * CELLS));
  }

  // Latents [channels, 64] to RGBA, written to `pixels` (Uint8ClampedArray of 4,096).
  run(quality, latents, pixels) {
    const { layers, room, t, m, h } = this, { residual, mixed } = BOUND;
    layers[0].run(quality, latents, room, t, -residual, residual);
    for (let n = 1; n < layers.length - 1; n += 3) {
      layers[n].run(quality, t, room, m, -mixed, mixed);
      layers[n + 1].run(quality, m, room, h, 0, mixed);
      layers[n + 2].run(quality, h, room, t, -residual, residual, true);
    }
    layers[layers.length - 1].run(quality, t, room, m, -128, 127);
    spread(m, pixels);
  }
}

// Patches of 4x4 pixels, [48][64], to rows of pixels.
function spread(patches, pixels) {
  pixels.fill(255);
  for (let o = 0; o < 48; o++) {
    const i = Math.floor(o / 12), j = Math.floor((o % 12) / 3), colour = o % 3;
    for (let p = 0; p < CELLS; p++)
      pixels[(32 * (4 * (p >> 3) + i) + 4 * (p & 7) + j) * 4 + colour] = patches[o * CELLS + p] + 128;
  }
}
