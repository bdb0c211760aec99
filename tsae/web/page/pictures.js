// Decoded images by position: asks workers for what is in view, keeps the last ones, drops what has been scrolled past.
import { readImage } from "./image_file.js";
import { get } from "./ranges.js";

const KEPT = 8192, MOST_ITEMS = 24, GAP_BYTES = 6144, IN_FLIGHT = 2, PIXEL_BYTES = 4096;

export class Pictures {
  constructor(catalogue, token, onPicture, onError) {
    this.token = token;
    this.catalogue = catalogue;
    this.onPicture = onPicture;
    this.onError = onError;
    this.kept = new Map(); // position: Uint8ClampedArray, or a message; the least recently used first
    this.wanted = new Set();
    this.asked = new Map(); // position: job
    this.jobs = new Map();
    this.number = 0;
    const count = Math.max(2, Math.min(4, (navigator.hardwareConcurrency ?? 2) - 1));
    this.workers = Array.from({ length: count }, () => this.start());
  }

  start() {
    const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    worker.postMessage({ model: this.catalogue.description.model, base: this.catalogue.base, token: this.token });
    worker.onmessage = ({ data }) => this.receive(worker, data);
    worker.onerror = (event) => this.onError(event.message ?? "The decoder could not be started.");
    worker.load = 0;
    return worker;
  }

  get(position) {
    const found = this.kept.get(position);
    if (found === undefined) return null;
    this.kept.delete(position);
    this.kept.set(position, found);
    return found;
  }

  // What is in view now, the most important first; everything else is given up.
  want(positions) {
    this.wanted = new Set(positions);
    for (const job of this.jobs.values())
      if (job.items && !job.cancelled && !job.items.some(({ position }) => this.wanted.has(position))) this.cancel(job);
    this.ask();
  }

  cancel(job) {
    job.cancelled = true;
    job.items.forEach(({ position }) => this.asked.delete(position));
    job.worker.postMessage({ cancel: job.id });
  }

  ask() {
    const open = [...this.wanted].filter((p) => !this.kept.has(p) && !this.asked.has(p) && this.catalogue.hasFacts(p));
    for (const run of this.runs(open)) {
      const worker = this.workers.reduce((a, b) => (b.load < a.load ? b : a));
      if (worker.load >= IN_FLIGHT) return; // it is asked again when a worker is free
      this.send(worker, run);
    }
  }

  // Records that lie close together in one file, in runs that one request reads.
  runs(positions) {
    const runs = [];
    for (let i = 0; i < positions.length; i += MOST_ITEMS) {
      const some = positions.slice(i, i + MOST_ITEMS).sort((a, b) => a - b);
      let last = null;
      for (const position of some) {
        const { file, start, bytes } = this.catalogue.place(position);
        if (!last || last.file !== file || start - last.end > GAP_BYTES) {
          last = { file, start, end: start, items: [] };
          runs.push(last);
        }
        last.items.push(this.item(position, start - last.start));
        last.end = start + bytes;
      }
    }
    return runs;
  }

  item(position, offset) {
    const { streamBytes, losslessBytes, coding } = this.catalogue;
    return { position, offset, streamBytes: streamBytes[position], losslessBytes: losslessBytes[position], coding: coding[position] };
  }

  send(worker, { file, start, end, items }, more = {}, settle = null) {
    const job = { id: this.number++, worker, items: settle ? null : items, settle };
    this.jobs.set(job.id, job);
    if (!settle) items.forEach(({ position }) => this.asked.set(position, job));
    worker.load++;
    worker.postMessage({ id: job.id, base: this.catalogue.base, file, start, bytes: end - start, items, ...more });
  }

  receive(worker, message) {
    const job = this.jobs.get(message.id);
    this.jobs.delete(message.id);
    worker.load--;
    if (job.settle) job.settle(message);
    else if (!job.cancelled) this.take(job, message);
    this.ask();
  }

  take({ items }, { pixels, failed = [], error }) {
    const messages = new Map(failed);
    items.forEach(({ position }, i) => {
      this.asked.delete(position);
      this.keep(position, error ?? messages.get(i) ?? pixels.subarray(i * PIXEL_BYTES, (i + 1) * PIXEL_BYTES));
      this.onPicture(position);
    });
    if (error) this.onError(error);
  }

  keep(position, picture) {
    this.kept.set(position, picture);
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
  }

  // One answer about one image, beside what the grid asks for.
  question(position, kind, more) {
    const { file, start, bytes } = this.catalogue.place(position, kind);
    const item = this.item(position, 0);
    if (kind === "originals") Object.assign(item, { streamBytes: bytes - 4, losslessBytes: 0 });
    const worker = this.workers.reduce((a, b) => (b.load < a.load ? b : a));
    return new Promise((resolve, reject) =>
      this.send(worker, { file, start, end: start + bytes, items: [item] }, more, (reply) =>
        reply.error ? reject(new Error(reply.error)) : resolve(reply)));
  }

  latents(position) {
    return this.question(position, "streams", { inspect: true });
  }

  // What was encoded, where that is known: from a server by key, or as it lies beside.
  async original(position, key) {
    const { description, base } = this.catalogue;
    if (description.originals_route) return originalOf(new URL(description.originals_route + key.split("/").map(encodeURIComponent).join("/"), base));
    if (!this.catalogue.originalBytes[position]) return null;
    return (await this.question(position, "originals", { inspect: true, isImage: true })).pixels;
  }

  async pixels(position) {
    const found = this.get(position);
    if (typeof found === "string") throw new Error(found);
    if (found) return found;
    const { pixels, failed } = await this.question(position, "streams", {});
    if (failed.length) throw new Error(failed[0][1]);
    this.keep(position, pixels);
    return pixels;
  }
}

async function originalOf(url) {
  const response = await get(url);
  if (response.status === 404) return null;
  if (!response.ok) throw new Error(`The server answered ${response.status}.`);
  return readImage(await response.arrayBuffer());
}
