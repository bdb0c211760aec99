// One image: decoded, beside its original, its latents, and where its bytes went.
import { qualityOf } from "./decoder/decoder.js";
import { bytes, count, decibels, element } from "./format.js";

const CELLS = 64;

export class Detail {
  // `address` for links; `step(by)` goes to a neighbour; `close()` ends it.
  constructor(dialog, { catalogue, keys, pictures, address, step, close }) {
    Object.assign(this, { dialog, catalogue, keys, pictures, address, shown: null });
    dialog.addEventListener("close", () => close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by || event.target.matches("input, select")) return;
      event.preventDefault();
      step(by);
    });
    this.step = step;
  }

  hide() {
    this.shown = null;
    if (this.dialog.open) this.dialog.close();
  }

  async show(position) {
    this.shown = position;
    const { catalogue, keys, pictures } = this, block = catalogue.blockOf(position);
    await Promise.all([catalogue.load(block), keys.load(block)]);
    if (this.shown !== position) return;
    this.build(position, keys.get(position));
    if (!this.dialog.open) this.dialog.showModal();
    const [pixels, original, inside] = await Promise.allSettled([pictures.pixels(position), pictures.original(position, keys.get(position)), pictures.latents(position)]);
    if (this.shown !== position) return;
    this.pictureRow.replaceChildren(...this.figures(pixels, original));
    if (inside.status === "fulfilled") this.inside.replaceChildren(...this.latents(position, inside.value));
    else this.inside.replaceChildren(element("p", { role: "alert" }, inside.reason.message));
  }

  build(position, key) {
    const hadFocus = this.dialog.contains(document.activeElement) ? document.activeElement.id : "";
    this.pictureRow = element("div", { class: "pictures" });
    this.inside = element("div", { class: "inside" });
    const button = (id, text, label, act) => element("button", { id, type: "button", "aria-label": label, title: label, onclick: act }, text);
    const smooth = element("input", { id: "crisp", type: "checkbox", checked: this.address.state.pixels === "1" });
    smooth.onchange = () => this.crisp(smooth.checked);
    this.dialog.replaceChildren(
      element("header", {},
        element("h2", { id: "detail-key" }, key),
        button("previous", "‹", "Previous image", () => this.step(-1)),
        button("next", "›", "Next image", () => this.step(1)),
        button("close", "×", "Close", () => this.dialog.close())),
      this.pictureRow,
      element("label", { class: "check" }, smooth, "Pixels as they are, without smoothing"),
      this.facts(position), this.inside);
    this.dialog.classList.toggle("crisp", smooth.checked);
    if (hadFocus) document.getElementById(hadFocus)?.focus();
  }

  crisp(isOn) {
    this.dialog.classList.toggle("crisp", isOn);
    this.address.set({ pixels: isOn ? "1" : "" }, true);
  }

  facts(position) {
    const { catalogue } = this, quality = qualityOf(catalogue.coding[position]), lossless = catalogue.losslessBytes[position];
    const label = catalogue.labels[catalogue.label[position]];
    const rows = [
      ["PSNR", decibels(catalogue.psnrDb(position)) + (lossless ? " from latents; stored losslessly as well" : "")],
      ["Bytes", bytes(catalogue.streamBytes[position]) + (lossless ? ` of latents, ${bytes(lossless)} lossless` : "")],
      ["Of raw pixels", `1/${(3072 / (catalogue.bytes(position) || 1)).toFixed(1)}`],
      ["Quality", quality === null ? "one only" : `${quality}`],
      ["Original size", `${catalogue.width[position]} × ${catalogue.height[position]} px`],
      ["Label", label ?? "none"],
      ["Position", count(position)],
    ];
    return element("dl", {}, rows.map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text))));
  }

  figures(pixels, original) {
    if (pixels.status === "rejected") return [element("p", { role: "alert" }, `This image cannot be decoded: ${pixels.reason.message}`)];
    const found = [figure("Decoded", pixels.value)];
    if (original.value) found.push(figure("Original", original.value), figure("Difference × 4", difference(pixels.value, original.value)));
    return found;
  }

  latents(position, { channels, latents, bits }) {
    const most = latents.reduce((a, x) => Math.max(a, Math.abs(x)), 1), total = bits.reduce((a, x) => a + x, 0), widest = Math.max(...bits, 1);
    const order = Array.from({ length: channels }, (_, c) => c);
    const used = order.filter((c) => bits[c] >= 0.4 || latents.subarray(c * CELLS, (c + 1) * CELLS).some(Boolean)), empty = channels - used.length;
    const share = (c) => `channel ${c}: ${(bits[c] / 8).toFixed(1)} bytes`;
    return [
      element("h3", {}, `Latents: ${channels} channels of 8 × 8`),
      element("p", { class: "note" }, `Blue is below zero, orange above; below each, the bytes that it took.${empty ? ` ${empty} more are empty.` : ""}`),
      element("ul", { class: "channels" }, used.map((c) =>
        element("li", { title: share(c) }, channelPicture(latents.subarray(c * CELLS, (c + 1) * CELLS), most),
          element("span", { class: "bar", style: `--share: ${bits[c] / widest}` }), element("span", {}, (bits[c] / 8).toFixed(1))))),
      element("p", { class: "note" },
        `Where the bytes went: ${(total / 8).toFixed(1)} of ${count(this.catalogue.streamBytes[position])} bytes are what the symbols of ${used.length} channels carry, `
        + `the rest ends the stream. The four dearest channels took ${fourDearest(bits, total)} %.`),
    ];
  }
}

function fourDearest(bits, total) {
  const sorted = Float64Array.from(bits).sort().reverse();
  return total ? Math.round((100 * sorted.slice(0, 4).reduce((a, x) => a + x, 0)) / total) : 0;
}

function figure(caption, pixels) {
  const canvas = element("canvas", { width: 32, height: 32, role: "img", "aria-label": caption });
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels), 32, 32), 0, 0);
  return element("figure", {}, canvas, element("figcaption", {}, caption));
}

// Four times the difference, around middle grey.
function difference(a, b) {
  return Uint8ClampedArray.from(a, (x, i) => (i % 4 === 3 ? 255 : 128 + 4 * (x - b[i])));
}

const COLOURS = { below: [31, 98, 189], zero: [242, 240, 235], above: [214, 104, 20] };

function channelPicture(values, most) {
  const canvas = element("canvas", { width: 8, height: 8, "aria-hidden": "true" }), image = new ImageData(8, 8);
  values.forEach((value, p) => {
    const strength = Math.sqrt(Math.abs(value) / most), to = value < 0 ? COLOURS.below : COLOURS.above;
    image.data.set([...COLOURS.zero.map((x, i) => x + strength * (to[i] - x)), 255], 4 * p);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
