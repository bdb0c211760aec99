// Runs the decoder that the page ships, for tests:
//
//     node decode.mjs MODEL.safetensors < streams.json > pixels
//
// streams.json is a list of [coding, stream in hexadecimal digits]; the pixels are 3,072 bytes an image, row by row, RGB.
// With `--time N` it decodes all N times over and prints microseconds an image instead.
import { readFileSync } from "node:fs";
import { openDecoder, PIXEL_BYTES } from "../../tsae/web/page/decoder/decoder.js";

const fromHex = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const decoder = openDecoder(new Uint8Array(readFileSync(process.argv[2])));
const streams = JSON.parse(readFileSync(0, "utf8")).map(([coding, hex]) => [coding, fromHex(hex)]);
const pixels = new Uint8ClampedArray(PIXEL_BYTES);

if (process.argv[3] === "--time") {
  const rounds = Number(process.argv[4]);
  const run = () => streams.forEach(([coding, stream]) => decoder.decode(coding, stream, pixels));
  run();
  const start = performance.now();
  for (let i = 0; i < rounds; i++) run();
  console.log(((performance.now() - start) * 1000) / rounds / streams.length);
} else
  for (const [coding, stream] of streams) {
    decoder.decode(coding, stream, pixels);
    process.stdout.write(pixels.filter((_, i) => i % 4 !== 3));
  }
