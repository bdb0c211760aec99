// Which images are shown, and in which order: filters, search and sorting over the catalogue's columns.
import { qualityOf } from "./decoder/decoder.js";
import { NO_PSNR } from "./catalogue.js";

export const LOSSLESS = "lossless", NO_LABEL = "\u0000none";

export const SORTS = {
  "": "archive order", psnr: "PSNR, worst first", "-psnr": "PSNR, best first", "-bytes": "most bytes first", bytes: "fewest bytes first",
};

export const needsFacts = ({ label, quality, min, max, sort }) => Boolean(label || quality || min || max || sort);
export const isPlain = (state) => !needsFacts(state) && !state.q;

// Positions of the images that a state shows, Uint32Array; null for all of them in the archive's order.
export function select(catalogue, state, mask) {
  if (isPlain(state)) return null;
  const passes = filter(catalogue, state), found = [];
  catalogue.blocks.forEach((block, number) => {
    if (needsFacts(state) && block.state !== "there") return;
    for (let p = catalogue.starts[number]; p < catalogue.starts[number + 1]; p++) if ((!mask || mask[p]) && passes(p)) found.push(p);
  });
  return order(catalogue, Uint32Array.from(found), state.sort);
}

function filter(catalogue, { label, quality, min, max }) {
  const tests = [];
  if (label) {
    const number = label === NO_LABEL ? 0 : (catalogue.labelNumbers.get(label) ?? -1);
    tests.push((p) => catalogue.label[p] === number);
  }
  if (quality === LOSSLESS) tests.push((p) => catalogue.losslessBytes[p] > 0);
  else if (quality) tests.push((p) => catalogue.losslessBytes[p] === 0 && qualityOf(catalogue.coding[p]) === Number(quality));
  if (min || max) {
    const least = min ? Number(min) * 64 : 0, most = max ? Number(max) * 64 : NO_PSNR;
    tests.push((p) => catalogue.psnr[p] !== NO_PSNR && catalogue.psnr[p] >= least && catalogue.psnr[p] < most);
  }
  return (p) => tests.every((test) => test(p));
}

// Sorted by a column, equal ones by position: value and place share one number, which typed arrays sort quickly.
function order(catalogue, positions, sort) {
  if (!sort) return positions;
  const isDown = sort.startsWith("-"), byPsnr = sort.endsWith("psnr"), room = 2 ** 32;
  const value = (p) => {
    const x = byPsnr ? catalogue.psnr[p] : catalogue.bytes(p);
    if (byPsnr && x === NO_PSNR) return NO_PSNR; // last either way
    return isDown ? 2 ** 20 - Math.min(x, 2 ** 20 - 1) - (byPsnr ? 2 ** 20 - 2 ** 15 : 0) : Math.min(x, 2 ** 20 - 1);
  };
  const pairs = Float64Array.from(positions, (p) => value(p) * room + p).sort();
  return Uint32Array.from(pairs, (pair) => pair % room);
}
