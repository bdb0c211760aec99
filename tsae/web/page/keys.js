// Keys, read in blocks when they are shown or searched.
import { readRange, readSegment, unpack } from "./ranges.js";

const KEPT_BLOCKS = 1024, AT_ONCE = 4;

// By code point, as keys are sorted, and not by UTF-16 unit.
export function compareKeys(a, b) {
  const x = Array.from(a), y = Array.from(b);
  for (let i = 0; i < x.length && i < y.length; i++) if (x[i] !== y[i]) return x[i].codePointAt(0) - y[i].codePointAt(0);
  return x.length - y.length;
}

export class Keys {
  constructor(catalogue) {
    this.catalogue = catalogue;
    this.texts = new Map(); // block: promise of all keys, joined by zeros
    this.lists = new Map(); // block: keys
    this.ordered = null; // promise of `order`
  }

  text(block) {
    if (this.texts.has(block)) return this.texts.get(block);
    const place = this.catalogue.description.blocks.keys[block];
    return this.keep(block, readSegment(this.catalogue.base, place).then((data) => new TextDecoder().decode(data)));
  }

  // Reads the keys of blocks that lie together, as `Catalogue.runs` found them.
  async loadRun({ file, start, end, blocks }) {
    if (blocks.length === 1 || blocks.every((block) => this.texts.has(block))) return;
    const data = await readRange(this.catalogue.base, file, start, end - start);
    for (const block of blocks) {
      const place = this.catalogue.description.blocks.keys[block], from = place.start - start;
      if (!this.texts.has(block))
        this.keep(block, unpack(data.subarray(from, from + place.bytes)).then((text) => new TextDecoder().decode(text)));
    }
  }

  keep(block, text) {
    this.texts.set(block, text);
    text.catch(() => this.texts.delete(block));
    if (this.texts.size > KEPT_BLOCKS) this.texts.delete(this.texts.keys().next().value);
    return text;
  }

  async load(block) {
    if (!this.lists.has(block)) this.lists.set(block, (await this.text(block)).split("\0"));
    if (this.lists.size > 64) this.lists.delete(this.lists.keys().next().value);
    return this.lists.get(block);
  }

  // The key at a position if its block is there, else null.
  get(position) {
    const block = this.catalogue.blockOf(position);
    return this.lists.get(block)?.[position - this.catalogue.starts[block]] ?? null;
  }

  async find(key) {
    const { first, last } = this.catalogue.description.blocks;
    for (let block = 0; block < first.length; block++) {
      if (compareKeys(first[block], key) > 0 || compareKeys(key, last[block]) > 0) continue;
      const row = (await this.load(block)).indexOf(key);
      if (row >= 0) return this.catalogue.starts[block] + row;
    }
    return null;
  }

  // Marks in `mask`, by position, the images whose keys match; `tell` is called as blocks come, until `signal` ends it.
  async search(query, mask, tell, signal) {
    const matches = matcher(query), { starts } = this.catalogue;
    await this.visitAll((block, text) => matches(text, (row) => (mask[starts[block] + row] = 1)), tell, signal);
  }

  // All positions in the order of their keys, Uint32Array; read once.
  order() {
    this.ordered ??= this.sort().catch((error) => {
      this.ordered = null;
      throw error;
    });
    return this.ordered;
  }

  async sort() {
    const all = new Array(this.catalogue.length), { starts } = this.catalogue;
    await this.visitAll((block, text) => text.split("\0").forEach((key, row) => (all[starts[block] + row] = key)));
    const isSimple = !all.some((key) => /[\ud800-\udfff]/.test(key)); // then units are code points, which is quick
    const compare = isSimple ? (a, b) => (all[a] < all[b] ? -1 : 1) : (a, b) => compareKeys(all[a], all[b]);
    return Uint32Array.from(Array.from(all.keys()).sort(compare));
  }

  // Calls `visit` with the keys of each block, several at once, in any order.
  async visitAll(visit, tell = () => {}, signal = null) {
    const runs = this.catalogue.runs("keys");
    const next = async () => {
      for (let run = runs.shift(); run && !signal?.aborted; run = runs.shift()) {
        await this.loadRun(run);
        for (const block of run.blocks) {
          const text = await this.text(block);
          if (signal?.aborted) return;
          visit(block, text);
        }
        tell();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, next));
  }
}

// A part of the key in any case; with * or ?, the whole key as `tsae ls` takes it.
function matcher(query) {
  if (/[*?]/.test(query)) {
    const pattern = query.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
    const whole = new RegExp(`^${pattern}$`, "su");
    return (text, mark) => text.split("\0").forEach((key, row) => whole.test(key) && mark(row));
  }
  const part = query.toLowerCase();
  return (text, mark) => findPart(text.toLowerCase(), part, mark);
}

function findPart(text, part, mark) {
  let row = 0, seen = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, seen)) {
    for (let end = text.indexOf("\0", seen); end >= 0 && end < at; end = text.indexOf("\0", seen)) {
      row++;
      seen = end + 1;
    }
    mark(row);
    const end = text.indexOf("\0", at);
    if (end < 0) return;
    row++;
    seen = end + 1;
  }
}
