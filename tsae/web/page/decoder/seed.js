// Latents to pixels by the network of `seed-8x8x8`: docs/FORMAT.md, "Decoding seed-8x8x8". Its numbers are floating-point.
import { arrangeBias, arrangeWeights, multiply } from "./product.js";

const EPSILON = 0.001;

// A transposed convolution (3x3, stride 2) with its batch normalisation folded in, as four products: one for each parity of
// row and column. An even row 2i sees row i through tap 1; an odd one sees rows i and i + 1 through taps 2 and 0.
const SEEN = [[{ tap: 1, step: 0 }], [{ tap: 2, step: 0 }, { tap: 0, step: 1 }]];

class Upsample {
  constructor(tensors, name, norm, size) {
    const { shape: [inputs, outputs], data } = tensors[`${name}.weight`];
    const of = (part) => tensors[`${norm}.${part}`].data;
    const gain = Array.from({ length: outputs }, (_, o) => of("weight")[o] / Math.sqrt(of("running_var")[o] + EPSILON));
    this.bias = arrangeBias(gain.map((g, o) => (tensors[`${name}.bias`].data[o] - of("running_mean")[o]) * g + of("bias")[o]));
    Object.assign(this, { inputs, outputs, size });
    this.parts = [0, 1, 2, 3].map((n) => {
      const taps = SEEN[n >> 1].flatMap((row) => SEEN[n & 1].map((column) => ({ row, column })));
      const weights = Array.from({ length: outputs }, (_, o) => taps.flatMap(({ row, column }) =>
        Array.from({ length: inputs }, (_, i) => data[((i * outputs + o) * 3 + row.tap) * 3 + column.tap] * gain[o]))).flat();
      return { taps, weights: arrangeWeights(weights, outputs, taps.length * inputs) };
    });
    this.values = new Float64Array(4 * inputs * size * size);
    this.sums = new Float64Array(this.bias.length * size * size);
    this.out = new Float64Array(outputs * 4 * size * size);
  }

  run(input) {
    const { inputs, outputs, size, values, sums, out } = this, cells = size * size;
    this.parts.forEach(({ taps, weights }, n) => {
      taps.forEach(({ row, column }, t) => this.shift(input, row.step, column.step, values.subarray(t * inputs * cells)));
      multiply(weights, this.bias, values, taps.length * inputs, cells, sums);
      for (let o = 0; o < outputs; o++)
        for (let y = 0; y < size; y++)
          for (let x = 0; x < size; x++)
            out[(o * 2 * size + 2 * y + (n >> 1)) * 2 * size + 2 * x + (n & 1)] = Math.max(sums[o * cells + y * size + x], 0);
    });
    return out;
  }

  // All channels, moved up and left by 0 or 1, with zeros beyond the edge.
  shift(input, down, right, values) {
    const { inputs, size } = this;
    for (let i = 0, v = 0; i < inputs; i++)
      for (let y = 0; y < size; y++)
        for (let x = 0; x < size; x++, v++)
          values[v] = y + down < size && x + right < size ? input[v + down * size + right] : 0;
  }
}

// The last convolution (3x3), a row of pixels at a time.
class ToPixels {
  constructor(tensors, name) {
    const { shape: [outputs, inputs], data } = tensors[`${name}.weight`];
    this.inputs = inputs;
    this.weights = arrangeWeights(data, outputs, inputs * 9);
    this.bias = arrangeBias(tensors[`${name}.bias`].data);
    this.values = new Float64Array(inputs * 9 * 32);
    this.sums = new Float64Array(this.bias.length * 32);
  }

  run(input, pixels) {
    pixels.fill(255);
    for (let y = 0; y < 32; y++) {
      this.gather(input, y);
      multiply(this.weights, this.bias, this.values, this.inputs * 9, 32, this.sums);
      for (let x = 0; x < 32; x++)
        for (let o = 0; o < 3; o++) pixels[(32 * y + x) * 4 + o] = 255 / (1 + Math.exp(-this.sums[o * 32 + x]));
    }
  }

  gather(input, y) {
    for (let i = 0, v = 0; i < this.inputs; i++)
      for (let t = 0; t < 9; t++)
        for (let x = 0, row = y + Math.floor(t / 3) - 1; x < 32; x++, v++) {
          const column = x + (t % 3) - 1;
          this.values[v] = row >= 0 && row < 32 && column >= 0 && column < 32 ? input[(i * 32 + row) * 32 + column] : 0;
        }
  }
}

export class SeedNetwork {
  constructor(tensors) {
    this.scale = tensors["quantizer.scale"].data;
    this.offset = tensors["quantizer.offset"].data;
    const layers = "network.g_s";
    this.first = new Upsample(tensors, `${layers}.0`, `${layers}.1`, 8);
    this.second = new Upsample(tensors, `${layers}.3`, `${layers}.4`, 16);
    this.last = new ToPixels(tensors, `${layers}.6`);
    this.y = new Float64Array(512);
  }

  // Stored integers [8, 64] to RGBA, written to `pixels` (Uint8ClampedArray, which rounds as it should).
  run(latents, pixels) {
    for (let i = 0; i < 512; i++) this.y[i] = this.offset[i >> 6] + this.scale[i >> 6] * latents[i];
    this.last.run(this.second.run(this.first.run(this.y)), pixels);
  }
}
