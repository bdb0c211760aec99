// The range decoder of docs/FORMAT.md, "Entropy-coded latents". Numbers stay below 2^53, so doubles hold them exactly.

export const WHOLE = 32768; // what all intervals of a table sum up to

export class DamagedStream extends Error {
  constructor() {
    super("damaged stream");
  }
}

export class RangeDecoder {
  constructor(stream) {
    this.stream = stream;
    this.place = 0;
    this.range = 4294967295;
    this.code = 0;
    this.bitsRead = 0; // what the symbols cost, counted only where `counts` is set
    this.counts = false;
    for (let i = 0; i < 4; i++) this.code = this.code * 256 + this.nextByte();
  }

  nextByte() {
    const byte = this.place < this.stream.length ? this.stream[this.place] : 0;
    this.place++;
    return byte;
  }

  // Where in a table the code lies: 0 to 32767.
  target(r) {
    const value = Math.floor(this.code / r);
    if (value >= WHOLE) throw new DamagedStream();
    return value;
  }

  take(low, high, r) {
    let code = this.code - low * r, range = (high - low) * r;
    while (range < 16777216) {
      code = code * 256 + this.nextByte();
      range *= 256;
    }
    this.code = code;
    this.range = range;
    if (this.counts) this.bitsRead += Math.log2(WHOLE / (high - low));
  }

  // The interval of a table, whose entries are `first` to `last`; the search starts at interval `guess`.
  interval(cumulative, first, last, guess) {
    const r = this.range >>> 15, value = this.target(r);
    let j = Math.min(first + guess, last - 1);
    while (cumulative[j] > value) j--;
    while (cumulative[j + 1] <= value) j++;
    this.take(cumulative[j], cumulative[j + 1], r);
    return j - first;
  }

  // A number of `n` bits, all equally likely.
  bits(n) {
    const r = this.range >>> 15, size = 1 << (15 - n);
    const value = Math.floor(this.target(r) / size);
    this.take(value * size, (value + 1) * size, r);
    return value;
  }

  // A stream that goes on beyond what was read is damaged.
  end() {
    if (this.place < this.stream.length) throw new DamagedStream();
  }
}
