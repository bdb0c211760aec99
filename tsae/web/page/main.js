// Joins the parts: address, controls, catalogue, grid, statistics and the view of one image.
import { Address, DEFAULTS } from "./address.js";
import { openCatalogue } from "./catalogue.js";
import { connectControls, fillLabels, showControls } from "./controls.js";
import { Detail } from "./detail.js";
import { count, element, plural } from "./format.js";
import { Grid } from "./grid.js";
import { Keys } from "./keys.js";
import { Pictures } from "./pictures.js";
import { setToken, UnauthorizedError } from "./ranges.js";
import { isPlain, needsFacts, select, sortsByKey } from "./selection.js";
import { Statistics } from "./statistics.js";

const TELL_MS = 200;
const $ = (id) => document.getElementById(id);
const tokens = { get: () => sessionStorage.getItem("tsae-token"), set: (value) => sessionStorage.setItem("tsae-token", value) };

class App {
  constructor(catalogue) {
    this.catalogue = catalogue;
    this.keys = new Keys(catalogue);
    this.positions = null; // null: all, in the archive's order
    this.mask = null;
    this.search = null;
    this.byKey = null; // all positions in the order of their keys, once that was asked for
    this.seen = null; // how much of the index was known when the views were last told
    this.address = new Address((state, before) => this.change(state, before));
    this.pictures = new Pictures(catalogue, tokens.get(), (position) => this.painted(position), (message) => tellProblem(message));
    this.grid = new Grid($("images"), {
      open: (index) => this.open(this.position(index)), want: (positions) => this.want(positions), moved: (index) => this.moved(index) });
    this.detail = new Detail($("detail"), {
      catalogue, keys: this.keys, pictures: this.pictures, address: this.address, step: (by) => this.step(by), close: () => this.closed() });
    this.statistics = new Statistics($("stats"), { catalogue, keys: this.keys, pictures: this.pictures, address: this.address });
    connectControls(this.address, catalogue);
    document.addEventListener("click", (event) => this.follow(event));
    document.addEventListener("visit", ({ detail }) => this.visit(detail));
  }

  start() {
    const { state } = this.address;
    describe(this.catalogue);
    this.change(state, { ...DEFAULTS, size: null, theme: null }, Number(state.at) || 0);
    this.loading = this.catalogue.loadAll(throttled(() => this.arrived(), TELL_MS)).then(() => this.arrived(), (error) => tellProblem(error.message));
  }

  get length() {
    return this.positions ? this.positions.length : this.catalogue.length;
  }

  position(index) {
    return this.positions ? this.positions[index] : index;
  }

  // Takes the page from one state to another.
  change(state, before, at = state.at === before.at ? null : Number(state.at) || 0) {
    showControls(this.address, state);
    if (state.theme !== before.theme) document.documentElement.dataset.theme = state.theme;
    if (state.size !== before.size) this.grid.resize(state.size);
    const isStats = state.view === "stats";
    $("images").hidden = isStats;
    $("stats").hidden = !isStats;
    const isOther = ["q", "label", "quality", "min", "max", "sort"].some((name) => state[name] !== before[name]);
    if (state.q !== before.q) this.find(state.q);
    if (sortsByKey(state) && !this.byKey) this.sortByKey();
    if (isOther || !this.grid.source) this.reselect(at ?? 0);
    else if (at !== null && !isStats) this.grid.moveFocus(at, false);
    this.showStatistics();
    if (state.open !== before.open) this.showOpen(state.open);
  }

  // More is known of what the state shows: the grid stays where it is, and the keyboard at its image.
  refine() {
    this.reselect(this.grid.top, this.position(this.grid.focus));
  }

  reselect(at = 0, focused = null) {
    this.positions = select(this.catalogue, this.address.state, this.mask, this.byKey);
    const found = focused === null ? -1 : this.positions ? this.positions.indexOf(focused) : focused;
    this.grid.show({
      length: this.length,
      position: (index) => this.position(index),
      key: (position) => this.keys.get(position),
      facts: (position) => this.facts(position),
      picture: (position) => this.pictures.get(position),
    }, at, found < 0 ? at : found);
    this.tell();
  }

  facts(position) {
    const { catalogue } = this;
    if (!catalogue.hasFacts(position)) return null;
    return { psnrDb: catalogue.psnrDb(position), bytes: catalogue.bytes(position), label: catalogue.labels[catalogue.label[position]] };
  }

  // More of the index has come, or nothing since the last call: then all stays as it is.
  arrived() {
    if (this.seen === this.catalogue.loaded) return;
    this.seen = this.catalogue.loaded;
    fillLabels(this.catalogue, this.address.state);
    if (needsFacts(this.address.state)) this.refine();
    this.showStatistics();
    this.tell();
  }

  async find(query) {
    this.search?.abort();
    this.mask = query ? new Uint8Array(this.catalogue.length) : null;
    if (!query) return;
    const search = (this.search = new AbortController()), tell = throttled(() => this.refine(), 2 * TELL_MS);
    await this.keys.search(query, this.mask, () => search.signal.aborted || tell(), search.signal).catch((error) => tellProblem(error.message));
    if (search.signal.aborted) return;
    this.search = null;
    this.refine();
    this.showStatistics();
  }

  async sortByKey() {
    this.byKey = await this.keys.order().catch((error) => (tellProblem(error.message), null));
    if (this.byKey && sortsByKey(this.address.state)) this.refine();
  }

  // The grid needs these: their facts and keys first, then their pixels.
  want(positions) {
    const blocks = new Set(positions.map((position) => this.catalogue.blockOf(position)));
    for (const block of blocks) {
      const isThere = this.catalogue.blocks[block].state === "there" && this.keys.lists.has(block);
      if (!isThere)
        Promise.all([this.catalogue.load(block), this.keys.load(block)]).then(
          () => (this.grid.refresh(), this.pictures.ask()), (error) => tellProblem(error.message));
    }
    this.pictures.want(positions);
  }

  painted(position) {
    this.grid.refresh(position);
    this.statistics.painted(position);
  }

  moved(index) {
    if (this.address.state.view !== "stats") this.address.note({ at: index ? String(index) : "" });
  }

  tell() {
    const { state } = this.address, isSorted = this.byKey || !sortsByKey(state);
    const isReady = isSorted && (this.catalogue.loaded === this.catalogue.length || !needsFacts(state));
    const some = this.length === this.catalogue.length || isPlain(state) ? plural(this.length, "image") : `${count(this.length)} of ${plural(this.catalogue.length, "image")}`;
    const text = isReady && !this.search ? some : `${some} so far; reading the index…`;
    if ($("count").textContent !== text) $("count").textContent = text;
    $("images").classList.toggle("empty", this.length === 0);
  }

  showStatistics() {
    if (this.address.state.view === "stats") this.statistics.show(this.positions, this.mask);
  }

  open(position) {
    const key = this.keys.get(position);
    if (key !== null) this.address.set({ open: key });
  }

  async showOpen(key) {
    if (!key) return this.detail.hide();
    const position = await this.keys.find(key);
    if (position === null) return tellProblem(`There is no image ${key} in this archive.`);
    await this.detail.show(position).catch((error) => tellProblem(error.message));
  }

  async step(by) {
    const here = this.positions ? this.positions.indexOf(this.detail.shown) : this.detail.shown, next = here + by;
    if (here < 0 || next < 0 || next >= this.length) return;
    const position = this.position(next);
    await this.keys.load(this.catalogue.blockOf(position));
    this.address.set({ open: this.keys.get(position) }, true);
    if (this.address.state.view !== "stats") this.grid.moveFocus(next, false);
  }

  closed() {
    const { open, view } = this.address.state;
    if (open) this.address.set({ open: "" });
    if (view === "stats") this.statistics.resume(open);
    else this.grid.cellAt(this.grid.focus)?.focus({ preventScroll: true });
  }

  // Links within the page change its state without loading it again.
  follow(event) {
    const link = event.target.closest?.("a[href^='?'], a[data-home]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    this.visit(link.getAttribute("href"));
  }

  visit(href) {
    const found = new URLSearchParams(href.startsWith("?") ? href : "");
    this.address.set(Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, found.get(name) ?? value])));
  }
}

function describe({ description: { title, counts, model_name: model, quality } }) {
  document.title = `${title}: ${plural(counts.images, "image")}`;
  $("title").textContent = title;
  const parts = [model + (quality ? `, quality ${quality}` : "")];
  if (counts.images) parts.push(`${(counts.stream_bytes / counts.images).toFixed(1)} B an image`);
  if (counts.psnr_mean_db) parts.push(`mean ${counts.psnr_mean_db.toFixed(1)} dB`);
  if (counts.failures) parts.push(plural(counts.failures, "failure"));
  $("summary").textContent = parts.join(" · ");
}

function tellProblem(message) {
  if (message === "cancelled") return;
  $("problem").textContent = message;
  $("problem").hidden = false;
}

// Calls at most every `ms`, the last time included.
function throttled(call, ms) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      call();
    }, ms);
  };
}

// For servers that want a token; it is kept until the window is closed.
function askToken(message) {
  const input = element("input", { type: "password", name: "token", required: true, autocomplete: "off" });
  const form = element("form", {}, element("label", {}, "Token", input), element("button", {}, "Open"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    tokens.set(input.value);
    location.reload();
  });
  tellProblem(message);
  $("problem").after(form);
  input.focus();
}

try {
  setToken(tokens.get());
  new App(await openCatalogue(document.baseURI)).start();
} catch (error) {
  if (error instanceof UnauthorizedError) askToken(error.message);
  else tellProblem(error.message);
}
