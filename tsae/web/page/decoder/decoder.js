// Decodes the streams of an archive, written from docs/FORMAT.md alone: bytes to latents to pixels, in plain JavaScript.
//
//     const decoder = openDecoder(modelFile);                      // a Uint8Array
//     decoder.decode(coding, stream, pixels);                      // RGBA, Uint8ClampedArray of 32 * 32 * 4
//     const { latents, bits } = decoder.latents(coding, stream);   // [channels, 64], and what each channel cost
import { LatentDecoder } from "./latents.js";
import { readModelFile } from "./safetensors.js";
import { SeedNetwork } from "./seed.js";
import { Synthesis } from "./synthesis.js";

export const PIXEL_BYTES = 32 * 32 * 4;
const CELLS = 64, INT8 = 1, FIRST_QUALITY = 2, LAST_CODING = 33;

// The quality of a coding; null for latents that are stored as they are.
export const qualityOf = (coding) => (coding >= FIRST_QUALITY && coding <= LAST_CODING ? coding - FIRST_QUALITY + 1 : null);

class LearnedDecoder {
  constructor(tensors) {
    this.entropy = new LatentDecoder(tensors);
    this.synthesis = new Synthesis(tensors);
    this.channels = this.entropy.channels;
    this.room = new Int32Array(this.channels * CELLS);
  }

  decode(coding, stream, pixels) {
    this.entropy.decode(this.quality(coding), stream, this.room);
    this.synthesis.run(this.quality(coding), this.room, pixels);
  }

  latents(coding, stream) {
    const bits = new Float64Array(this.channels);
    return { channels: this.channels, latents: this.entropy.decode(this.quality(coding), stream, undefined, bits), bits };
  }

  quality(coding) {
    const quality = qualityOf(coding);
    if (quality === null) throw new Error(`coding ${coding} is not one of this model`);
    return quality;
  }
}

class SeedDecoder {
  constructor(tensors) {
    this.network = new SeedNetwork(tensors);
    this.channels = 8;
  }

  decode(coding, stream, pixels) {
    this.network.run(this.read(coding, stream), pixels);
  }

  latents(coding, stream) {
    return { channels: this.channels, latents: Int32Array.from(this.read(coding, stream)), bits: new Float64Array(this.channels).fill(8 * CELLS) };
  }

  read(coding, stream) {
    if (coding !== INT8) throw new Error(`coding ${coding} is not one of this model`);
    if (stream.length !== this.channels * CELLS) throw new Error("damaged stream");
    return new Int8Array(stream.buffer, stream.byteOffset, stream.length);
  }
}

const ARCHITECTURES = { "tsae-1": LearnedDecoder, "seed-8x8x8": SeedDecoder };

export function openDecoder(modelFile) {
  const { facts, tensors } = readModelFile(modelFile);
  const Decoder = ARCHITECTURES[facts.architecture];
  if (!Decoder) throw new Error(`a model of architecture ${facts.architecture} is unknown here`);
  return new Decoder(tensors);
}
