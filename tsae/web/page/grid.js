// The grid of images: only the rows in view exist. One cell has the focus, which the keyboard moves.
import { bytes, decibels, element, lastParts } from "./format.js";
import { ScrollRange } from "./scroll.js";

const SIZES = { s: { width: 60, caption: 0 }, m: { width: 104, caption: 38 }, l: { width: 168, caption: 38 } };
const GAP = 8, BEYOND = 3;

export class Grid {
  // `source`: length, position(index), key(position), facts(position), picture(position); `open(index)` shows one.
  constructor(host, { open, want, moved }) {
    Object.assign(this, { open, want, moved, source: null, height: 0, focus: 0, size: "m", rows: new Map(), spare: [], frame: 0 });
    this.sheet = element("div", { class: "sheet", role: "presentation" });
    this.box = element("div", { class: "grid", role: "grid", "aria-label": "Images", tabindex: -1 }, this.sheet);
    host.append(this.box);
    this.scroll = new ScrollRange(this.box, this.sheet, () => this.draw());
    this.box.addEventListener("keydown", (event) => this.press(event));
    this.box.addEventListener("click", (event) => this.click(event));
    new ResizeObserver(() => this.measure()).observe(this.box);
  }

  // Shows other images; `index` is the one to start at, `focus` the one that the keyboard is at.
  show(source, index = 0, focus = index) {
    const hadFocus = this.box.contains(document.activeElement);
    if (hadFocus) this.box.focus({ preventScroll: true }); // while its cells are made anew
    this.source = source;
    this.focus = Math.max(0, Math.min(focus, source.length - 1));
    this.forget();
    this.measure(index);
    if (!hadFocus) return;
    this.drawNow();
    this.cellAt(this.focus)?.focus({ preventScroll: true });
  }

  resize(size) {
    this.size = SIZES[size] ? size : "m";
    this.box.dataset.size = this.size;
    this.forget();
    this.measure();
  }

  forget() {
    for (const row of this.rows.values()) row.remove();
    this.rows.clear();
  }

  measure(index = this.top) {
    const { width, caption } = SIZES[this.size], room = this.box.clientWidth - 2 * GAP;
    this.height = this.box.clientHeight; // asked once: while rows change, each question costs a layout
    if (!this.source || room <= 0) return;
    this.columns = Math.max(1, Math.floor((room + GAP) / (width + GAP)));
    this.cell = Math.floor((room + GAP) / this.columns - GAP);
    this.step = this.cell + caption + GAP;
    const count = Math.ceil(this.source.length / this.columns);
    this.box.setAttribute("aria-rowcount", count);
    this.box.setAttribute("aria-colcount", this.columns);
    this.box.style.setProperty("--cell", `${this.cell}px`);
    this.scroll.resize(count * this.step + GAP, this.height);
    this.forget();
    this.scroll.to(Math.floor(index / this.columns) * this.step);
  }

  get top() {
    return this.columns ? Math.round(this.scroll.top / this.step) * this.columns : 0;
  }

  // The range of indices in view, and some rows beyond.
  range(beyond) {
    const first = Math.floor(this.scroll.top / this.step) - beyond, last = Math.ceil((this.scroll.top + this.height) / this.step) + beyond;
    return [Math.max(0, first), Math.min(Math.ceil(this.source.length / this.columns), last)];
  }

  draw() {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    this.frame = 0;
    const [first, last] = this.range(BEYOND);
    for (const [number, row] of this.rows)
      if (number < first || number >= last) {
        this.rows.delete(number);
        if (row.contains(document.activeElement)) this.box.focus({ preventScroll: true });
        this.spare.push(row);
      }
    for (let number = first; number < last; number++) this.place(number);
    for (const row of this.spare.splice(0)) row.remove();
    this.follow();
    this.ask();
    this.moved(this.top);
  }

  // Who comes to the grid by the keyboard comes to what is in view; who is in it stays where they are.
  follow() {
    if (this.cellAt(this.focus) || this.box.contains(document.activeElement)) return;
    this.focus = Math.max(0, Math.min(this.top, this.source.length - 1));
    this.cellAt(this.focus)?.setAttribute("tabindex", 0);
  }

  ask() {
    const [first, last] = this.range(0), [start, end] = this.range(BEYOND), wanted = [];
    const add = (from, to) => {
      for (let i = from * this.columns; i < Math.min(to * this.columns, this.source.length); i++) wanted.push(this.source.position(i));
    };
    add(first, last);
    add(last, end);
    add(start, first);
    this.want(wanted);
  }

  place(number) {
    let row = this.rows.get(number);
    if (!row) {
      row = this.spare.pop() ?? this.sheet.appendChild(element("div", { role: "row" }));
      this.rows.set(number, row);
      row.setAttribute("aria-rowindex", number + 1);
      this.fill(row, number);
    }
    row.style.transform = `translateY(${this.scroll.place(number * this.step + GAP)}px)`;
  }

  fill(row, number) {
    const start = number * this.columns, cells = Math.min(this.columns, this.source.length - start);
    while (row.children.length > cells) row.lastChild.remove();
    while (row.children.length < cells) row.append(makeCell());
    Array.from(row.children, (cell, column) => this.fillCell(cell, start + column, column));
  }

  fillCell(cell, index, column) {
    cell.dataset.index = index;
    cell.setAttribute("aria-colindex", column + 1);
    cell.tabIndex = index === this.focus ? 0 : -1;
    this.update(cell, this.source.position(index));
  }

  update(cell, position) {
    const { source } = this, key = source.key(position), facts = source.facts(position), [canvas, name, line] = cell.children;
    name.firstChild.textContent = key === null ? "…" : lastParts(key);
    line.textContent = facts ? `${decibels(facts.psnrDb)} · ${bytes(facts.bytes)}` : "";
    cell.title = key ?? "";
    cell.setAttribute("aria-label", `${key ?? "loading"}${facts ? `, ${line.textContent}${facts.label === null ? "" : `, label ${facts.label}`}` : ""}`);
    paint(cell, canvas, source.picture(position));
  }

  // Draws again what has come meanwhile, at one position or everywhere.
  refresh(position = null) {
    for (const row of this.rows.values())
      for (const cell of row.children) {
        const here = this.source.position(Number(cell.dataset.index));
        if (position === null) this.update(cell, here);
        else if (here === position) paint(cell, cell.firstChild, this.source.picture(position));
      }
  }

  cellAt(index) {
    return this.rows.get(Math.floor(index / this.columns))?.children[index % this.columns];
  }

  reveal(index) {
    const y = Math.floor(index / this.columns) * this.step, end = y + this.step + GAP - this.height;
    if (y < this.scroll.top) this.scroll.to(y);
    else if (end > this.scroll.top) this.scroll.to(end);
    this.drawNow();
  }

  moveFocus(index, takes = true) {
    const next = Math.max(0, Math.min(index, this.source.length - 1));
    this.cellAt(this.focus)?.setAttribute("tabindex", -1);
    this.focus = next;
    this.reveal(next);
    const cell = this.cellAt(next);
    cell?.setAttribute("tabindex", 0);
    if (takes) cell?.focus({ preventScroll: true });
  }

  press(event) {
    const page = Math.max(1, Math.floor(this.height / this.step)) * this.columns, { focus, columns } = this;
    const start = focus - (focus % columns), all = event.ctrlKey || event.metaKey;
    const to = {
      ArrowRight: focus + 1, ArrowLeft: focus - 1, ArrowDown: focus + columns, ArrowUp: focus - columns, PageDown: focus + page, PageUp: focus - page,
      Home: all ? 0 : start, End: all ? this.source.length - 1 : start + columns - 1,
    }[event.key];
    if (!this.source.length || event.altKey) return;
    if (to !== undefined) this.moveFocus(to < 0 && event.key !== "ArrowLeft" ? focus % columns : to);
    else if (event.key === "Enter" || event.key === " ") this.open(focus);
    else return;
    event.preventDefault();
  }

  click(event) {
    const cell = event.target.closest("[role=gridcell]");
    if (!cell) return;
    this.moveFocus(Number(cell.dataset.index));
    this.open(this.focus);
  }
}

function makeCell() {
  const canvas = element("canvas", { width: 32, height: 32, "aria-hidden": "true" });
  return element("div", { role: "gridcell", tabindex: -1 }, canvas, element("span", { class: "key" }, element("bdi", { dir: "ltr" })), element("span", { class: "facts" }));
}

// The pixels, nothing while they are on their way, or a mark where they cannot be had.
function paint(cell, canvas, picture) {
  const isThere = picture instanceof Uint8ClampedArray;
  cell.classList.toggle("waiting", picture === null);
  cell.classList.toggle("failed", typeof picture === "string");
  if (isThere) canvas.getContext("2d").putImageData(new ImageData(picture, 32, 32), 0, 0);
  else canvas.getContext("2d").clearRect(0, 0, 32, 32);
}
