// What is known of each image, in columns by position: docs/WEB.md, "Facts". Blocks arrive in any order.
import { get, readRange, readSegment, unpack } from "./ranges.js";

export const NO_PSNR = 0xffff;
const PSNR_STEP = 64, LAYOUT = 1, RECORD_HEAD = 4, TOGETHER_BYTES = 400_000, AT_ONCE = 3;

export async function openCatalogue(base) {
  const response = await get(new URL("archive.json", base), { cache: "no-cache" });
  if (!response.ok) throw new Error(`archive.json: the server answered ${response.status}`);
  const description = await response.json();
  if (description.format !== "tsae-web" || description.format_version !== LAYOUT)
    throw new Error("This page cannot read that archive; export it again.");
  return new Catalogue(base, description);
}

export class Catalogue {
  constructor(base, description) {
    this.base = base;
    this.description = description;
    const { rows } = description.blocks;
    this.starts = new Uint32Array(rows.length + 1);
    rows.forEach((count, block) => (this.starts[block + 1] = this.starts[block] + count));
    this.length = this.starts[rows.length];
    for (const name of ["streamBytes", "losslessBytes", "originalBytes", "width", "height", "label"])
      this[name] = new Uint32Array(this.length);
    this.psnr = new Uint16Array(this.length);
    this.coding = new Uint8Array(this.length);
    this.labels = [null]; // by number; 0 is none
    this.labelNumbers = new Map();
    this.blocks = rows.map(() => ({ state: null, places: null }));
    this.loaded = 0; // images whose facts are there
  }

  blockOf(position) {
    let low = 0, high = this.starts.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.starts[middle] <= position) low = middle;
      else high = middle;
    }
    return low;
  }

  hasFacts(position) {
    return this.blocks[this.blockOf(position)].state === "there";
  }

  bytes(position) {
    return this.losslessBytes[position] || this.streamBytes[position];
  }

  psnrDb(position) {
    return this.psnr[position] === NO_PSNR ? null : this.psnr[position] / PSNR_STEP;
  }

  // Loads the facts of one block; a promise that all who ask share.
  load(block) {
    const entry = this.blocks[block];
    entry.promise ??= readSegment(this.base, this.description.blocks.facts[block]).then(
      (data) => this.take(block, data),
      (error) => {
        entry.promise = null;
        throw error;
      },
    );
    return entry.promise;
  }

  // Loads all blocks, neighbours of one file together; `tell` is called as they come.
  async loadAll(tell) {
    const runs = this.runs("facts");
    const next = async () => {
      for (let run = runs.shift(); run; run = runs.shift()) {
        await this.loadRun(run);
        tell();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, next));
  }

  // Blocks whose segments of a kind follow each other in a file, so that one request reads them.
  runs(kind) {
    const runs = [];
    this.description.blocks[kind].forEach(({ file, start = 0, bytes = null }, block) => {
      const last = runs.at(-1);
      const joins = last && bytes !== null && last.file === file && last.end === start && start + bytes - last.start < TOGETHER_BYTES;
      if (joins) {
        last.end += bytes;
        last.blocks.push(block);
      } else runs.push({ file, start, end: start + (bytes ?? 0), blocks: [block] });
    });
    return runs;
  }

  async loadRun({ file, start, end, blocks }) {
    if (blocks.length === 1) return this.load(blocks[0]);
    const data = await readRange(this.base, file, start, end - start);
    for (const block of blocks) {
      const place = this.description.blocks.facts[block], entry = this.blocks[block];
      entry.promise ??= unpack(data.subarray(place.start - start, place.start - start + place.bytes)).then((facts) => this.take(block, facts));
      await entry.promise;
    }
  }

  take(block, data) {
    const start = this.starts[block], rows = this.starts[block + 1] - start, view = data.buffer;
    ["streamBytes", "losslessBytes", "originalBytes", "width", "height"].forEach((name, i) =>
      this[name].set(new Uint32Array(view, 4 * i * rows, rows), start));
    this.psnr.set(new Uint16Array(view, 24 * rows, rows), start);
    this.coding.set(new Uint8Array(view, 26 * rows, rows), start);
    const names = JSON.parse(new TextDecoder().decode(data.subarray(27 * rows)));
    const numbers = [0, ...names.map((name) => this.labelNumber(name))];
    new Uint32Array(view, 20 * rows, rows).forEach((label, row) => (this.label[start + row] = numbers[label]));
    this.blocks[block].state = "there";
    this.loaded += rows;
  }

  labelNumber(name) {
    if (!this.labelNumbers.has(name)) this.labelNumbers.set(name, this.labels.push(name) - 1);
    return this.labelNumbers.get(name);
  }

  // Where a record lies, or its original: { file, start, bytes }.
  place(position, kind = "streams") {
    const block = this.blockOf(position), entry = this.blocks[block], segment = this.description.blocks[kind][block];
    const sizes = ((entry.places ??= {})[kind] ??= this.offsets(block, kind)), row = position - this.starts[block];
    return { file: segment.file, start: (segment.start ?? 0) + sizes[row], bytes: sizes[row + 1] - sizes[row] };
  }

  offsets(block, kind) {
    const start = this.starts[block], rows = this.starts[block + 1] - start, offsets = new Float64Array(rows + 1);
    for (let row = 0, p = start; row < rows; row++, p++) {
      const original = this.originalBytes[p];
      const bytes = kind === "streams" ? RECORD_HEAD + this.streamBytes[p] + this.losslessBytes[p] : original && RECORD_HEAD + original;
      offsets[row + 1] = offsets[row] + bytes;
    }
    return offsets;
  }
}
