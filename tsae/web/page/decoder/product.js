// Matrix products, where decoding spends its time.

const BLOCK = 4;

// Weights [outputs][inputs] in the order in which `multiply` reads them, filled up with zeros to blocks of four outputs.
export function arrangeWeights(weights, outputs, inputs) {
  const arranged = new Float64Array(Math.ceil(outputs / BLOCK) * BLOCK * inputs);
  for (let o = 0; o < outputs; o++)
    for (let t = 0; t < inputs; t++)
      arranged[(Math.floor(o / BLOCK) * inputs + t) * BLOCK + (o % BLOCK)] = weights[o * inputs + t];
  return arranged;
}

// sums[o][p] = bias[o] + sum over t of weights[o][t] * values[t][p]; `cells`, the number of p, is even.
// Four outputs by two cells at a time: eight products for six values read.
export function multiply(weights, bias, values, inputs, cells, sums) {
  for (let block = 0; block * BLOCK < bias.length; block++) {
    const o = block * BLOCK, b0 = bias[o], b1 = bias[o + 1], b2 = bias[o + 2], b3 = bias[o + 3];
    for (let p = 0; p < cells; p += 2) {
      let s00 = b0, s01 = b0, s10 = b1, s11 = b1, s20 = b2, s21 = b2, s30 = b3, s31 = b3;
      let w = o * inputs;
      for (let v = p; v < inputs * cells; v += cells, w += BLOCK) {
        const x0 = values[v], x1 = values[v + 1];
        const w0 = weights[w], w1 = weights[w + 1], w2 = weights[w + 2], w3 = weights[w + 3];
        s00 += w0 * x0; s01 += w0 * x1;
        s10 += w1 * x0; s11 += w1 * x1;
        s20 += w2 * x0; s21 += w2 * x1;
        s30 += w3 * x0; s31 += w3 * x1;
      }
      let s = o * cells + p;
      sums[s] = s00; sums[s + 1] = s01; s += cells;
      sums[s] = s10; sums[s + 1] = s11; s += cells;
      sums[s] = s20; sums[s + 1] = s21; s += cells;
      sums[s] = s30; sums[s + 1] = s31;
    }
  }
}

// Values per output, filled up as the weights are.
export function arrangeBias(values) {
  const arranged = new Float64Array(Math.ceil(values.length / BLOCK) * BLOCK);
  arranged.set(values);
  return arranged;
}
