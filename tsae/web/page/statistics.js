// Sums and distributions over the images that are selected.
import { bytes, count, decibels, element, plural } from "./format.js";
import { NO_PSNR } from "./catalogue.js";
import { NO_LABEL, select } from "./selection.js";

const BARS = 32, LABELS = 200, WORST = 24;

// Over the catalogue's columns, of what is known already; `positions` is null for all.
export function summarise(catalogue, positions) {
  const n = positions ? positions.length : catalogue.length, perLabel = new Map();
  const isComplete = catalogue.loaded === catalogue.length;
  const all = { images: 0, measured: 0, psnr: 0, least: Infinity, bytes: 0, lossless: 0 };
  const psnr = new Map(), sizes = new Map();
  for (let i = 0; i < n; i++) {
    const p = positions ? positions[i] : i;
    if (!isComplete && !catalogue.hasFacts(p)) continue;
    const steps = catalogue.psnr[p], size = catalogue.bytes(p), label = catalogue.label[p];
    if (!perLabel.has(label)) perLabel.set(label, { images: 0, measured: 0, psnr: 0, least: Infinity, bytes: 0, lossless: 0 });
    for (const sum of [all, perLabel.get(label)]) add(sum, steps, size, catalogue.losslessBytes[p]);
    if (steps !== NO_PSNR) psnr.set(steps >> 5, (psnr.get(steps >> 5) ?? 0) + 1);
    sizes.set(size >> 2, (sizes.get(size >> 2) ?? 0) + 1);
  }
  return { all, perLabel, psnr, sizes };
}

function add(sum, steps, size, lossless) {
  sum.images++;
  sum.bytes += size;
  sum.lossless += lossless > 0 ? 1 : 0;
  if (steps === NO_PSNR) return;
  sum.measured++;
  sum.psnr += steps / 64;
  sum.least = Math.min(sum.least, steps / 64);
}

// Counts by fine steps of `unit`, gathered in at most BARS bars of a round width.
export function gather(fine, unit) {
  const steps = [...fine.keys()];
  if (!steps.length) return [];
  const low = Math.min(...steps), high = Math.max(...steps) + 1;
  const width = [1, 2, 4, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000].find((w) => (high - low) / w <= BARS) ?? Math.ceil((high - low) / BARS);
  const first = Math.floor(low / width), bars = Array.from({ length: Math.ceil(high / width) - first }, (_, i) => ({
    from: (first + i) * width * unit, to: (first + i + 1) * width * unit, images: 0 }));
  for (const [step, images] of fine) bars[Math.floor(step / width) - first].images += images;
  return bars;
}

// The view of them. It is drawn anew only when there is something new to draw; open tables, the focus and what is scrolled stay.
export class Statistics {
  constructor(host, { catalogue, keys, pictures, address }) {
    Object.assign(this, { host, catalogue, keys, pictures, address, drawn: [], listed: "", canvases: new Map() });
    this.worst = element("ul", { class: "worst" });
  }

  // Of the images at `positions`, null for all; `mask` is what was searched for, see `select`.
  show(positions, mask) {
    const { catalogue, address } = this, home = { view: "", at: "", open: "" }, drawn = [positions, catalogue.loaded, address.href({ view: "", open: "" })];
    if (drawn.every((value, i) => value === this.drawn[i])) return;
    this.drawn = drawn;
    const { all, perLabel, psnr, sizes } = summarise(catalogue, positions), href = (changes) => address.href({ ...home, ...changes });
    this.host.setAttribute("aria-busy", "true");
    replaceContent(this.host, [
      element("div", { class: "tiles" }, tiles(all)),
      histogram("psnr", "PSNR", "dB", gather(psnr, 0.5), (bar) => href({ min: bar.from, max: bar.to })),
      histogram("bytes", "Bytes an image", "B", gather(sizes, 4), null),
      element("section", { class: "card" }, element("h2", {}, "Worst images first"), this.worst,
        element("p", {}, element("a", { href: href({ sort: "psnr" }) }, "All, worst first"))),
      labelTable(catalogue, perLabel, href)], this.host);
    this.showWorst(mask);
  }

  async showWorst(mask) {
    const { catalogue, keys, address, drawn } = this;
    const positions = select(catalogue, { ...address.state, sort: "psnr" }, mask).subarray(0, WORST);
    await Promise.all([...new Set(Array.from(positions, (p) => catalogue.blockOf(p)))].map((block) => keys.load(block)));
    if (drawn !== this.drawn) return;
    const listed = `${positions} ${drawn.at(-1)}`;
    if (listed !== this.listed) this.list(positions);
    this.listed = listed;
    this.host.setAttribute("aria-busy", String(catalogue.loaded < catalogue.length));
  }

  list(positions) {
    const { catalogue, keys, pictures, address } = this;
    this.canvases = new Map(Array.from(positions, (p) => [p, element("canvas", { width: 32, height: 32, "aria-hidden": "true" })]));
    replaceContent(this.worst, Array.from(this.canvases, ([position, canvas]) => {
      const key = keys.get(position), db = catalogue.psnrDb(position);
      return element("li", {}, element("a", { href: address.href({ open: key ?? "" }), "aria-label": `${key}, ${db?.toFixed(1)} dB` }, canvas, `${db?.toFixed(1) ?? "?"} dB`));
    }), this.host);
    positions.forEach((position) => this.painted(position));
    pictures.want(positions);
  }

  // Gives the focus back to the link of a key, or the first one, if the list was drawn anew while an image was shown.
  resume(key) {
    if (this.host.contains(document.activeElement)) return;
    const links = Array.from(this.worst.querySelectorAll("a")), href = this.address.href({ open: key });
    (links.find((link) => link.getAttribute("href") === href) ?? links[0])?.focus({ preventScroll: true });
  }

  // A picture has come.
  painted(position) {
    const picture = this.pictures.get(position), canvas = this.canvases.get(position);
    if (canvas && picture instanceof Uint8ClampedArray) canvas.getContext("2d").putImageData(new ImageData(picture, 32, 32), 0, 0);
  }
}

// Gives a part of `host` other children; what has the same name or address is open, scrolled and focused as before.
function replaceContent(part, children, host) {
  const name = (node) => node.id || node.getAttribute("href"), all = (selector) => Array.from(host.querySelectorAll(selector));
  const open = new Set(all("details[open]").map(name)), scrolled = new Map([host, ...all(".scroller")].map((node) => [name(node), node.scrollTop]));
  const focused = host.contains(document.activeElement) ? name(document.activeElement) : null;
  part.replaceChildren(...children);
  for (const node of all("details")) node.open = open.has(name(node));
  for (const node of [host, ...all(".scroller")]) node.scrollTop = scrolled.get(name(node)) ?? 0;
  if (focused && host !== document.activeElement) all("a, summary, .scroller").find((node) => name(node) === focused)?.focus({ preventScroll: true });
}

const mean = (sum) => (sum.measured ? sum.psnr / sum.measured : null);
const least = (sum) => (sum.measured ? sum.least : null);

function tiles(all) {
  const facts = [
    ["Images", count(all.images)],
    ["Mean PSNR", decibels(mean(all))],
    ["Worst", decibels(least(all))],
    ["Bytes an image", all.images ? bytes(all.bytes / all.images) : "none"],
    ["Of raw pixels", all.bytes ? `1/${((3072 * all.images) / all.bytes).toFixed(1)}` : "none"],
    ["Stored losslessly", count(all.lossless)],
  ];
  return facts.map(([name, text]) => element("p", { class: "tile" }, element("span", {}, name), element("b", {}, text)));
}

function histogram(id, title, unit, bars, href) {
  const most = Math.max(...bars.map((bar) => bar.images), 1), name = (bar) => `${bar.from} to ${bar.to} ${unit}`;
  const columns = bars.map((bar) => element("span", { class: "column", style: `--share: ${bar.images / most}`, title: `${name(bar)}: ${plural(bar.images, "image")}` }));
  const rows = bars.filter((bar) => bar.images).map((bar) => element("tr", {},
    element("th", { scope: "row" }, href ? element("a", { href: href(bar) }, name(bar)) : name(bar)), element("td", {}, count(bar.images))));
  const chart = element("div", { class: "chart", role: "img", "aria-label": `${title}: a histogram of ${bars.length} bars; the table below has its numbers` }, columns);
  if (href) chart.onclick = (event) => columns.includes(event.target) && rows.length && document.dispatchEvent(new CustomEvent("visit", { detail: href(bars[columns.indexOf(event.target)]) }));
  return element("section", { class: "card" }, element("h2", {}, title), chart,
    element("p", { class: "axis", "aria-hidden": "true" }, element("span", {}, bars.length ? `${bars[0].from} ${unit}` : ""), element("span", {}, bars.length ? `${bars.at(-1).to} ${unit}` : "")),
    element("details", { id: `${id}-table` }, element("summary", { id: `${id}-summary` }, "As a table"), element("table", {},
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, title), element("th", { scope: "col" }, "Images"))), element("tbody", {}, rows))));
}

function labelTable(catalogue, perLabel, href) {
  const rows = [...perLabel].map(([label, sum]) => ({ label, name: catalogue.labels[label], sum })).sort((a, b) => (mean(a.sum) ?? 1e9) - (mean(b.sum) ?? 1e9));
  const heads = ["Label", "Images", "Mean PSNR", "Worst", "Bytes an image"];
  const cells = ({ name, sum }) => [count(sum.images), decibels(mean(sum)), decibels(least(sum)), bytes(sum.bytes / sum.images)];
  const note = rows.length > LABELS ? element("p", { class: "note" }, `The ${LABELS} worst of ${count(rows.length)} labels.`) : null;
  return element("section", { class: "card" }, element("h2", {}, "By label, worst first"), note,
    element("div", { class: "scroller", id: "labels", tabindex: 0, role: "region", "aria-label": "Table of labels" }, element("table", {},
      element("thead", {}, element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, rows.slice(0, LABELS).map((row) => element("tr", {},
        element("th", { scope: "row" }, element("a", { href: href({ label: row.name ?? NO_LABEL }) }, row.name ?? "none")),
        cells(row).map((text) => element("td", {}, text))))))));
}
