// Which images are shown, and in which order: filters, search and sorting over the catalogue's columns.
import { qualityOf } from "./decoder/decoder.js";
import { NO_PSNR } from "./catalogue.js";

export const LOSSLESS = "lossless", NO_LABEL = "\u0000none";

export const SORTS = {
  "": "archive order", key: "key, A to Z", "-key": "key, Z to A", psnr: "PSNR, worst first", "-psnr": "PSNR, best first",
  "-bytes": "most bytes first", bytes: "fewest bytes first",
};

export const sortsByKey = ({ sort }) => sort.endsWith("key");
export const needsFacts = (state) => Boolean(state.label || state.quality || state.min || state.max || (state.sort && !sortsByKey(state)));
export const isPlain = (state) => !needsFacts(state) && !state.q;

// Positions of the images that a state shows, Uint32Array; null for all of them in the archive's order. `mask` marks those that
// were searched for, `byKey` has all positions in the order of keys; null where they are not asked for, or not known yet.
export function select(catalogue, state, mask, byKey) {
  if (isPlain(state) && !state.sort) return null;
  const passes = filter(catalogue, state), isKnown = (p) => !needsFacts(state) || catalogue.hasFacts(p);
  if (byKey && sortsByKey(state)) {
    const found = byKey.filter((p) => (!mask || mask[p]) && isKnown(p) && passes(p));
    return state.sort.startsWith("-") ? found.reverse() : found;
  }
  const found = [];
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
  if (!sort || sortsByKey({ sort })) return positions;
  const isDown = sort.startsWith("-"), byPsnr = sort.endsWith("psnr"), room = 2 ** 32;
  const value = (p) => {
    const x = byPsnr ? catalogue.psnr[p] : catalogue.bytes(p);
    if (byPsnr && x === NO_PSNR) return NO_PSNR; // last either way
    return isDown ? 2 ** 20 - Math.min(x, 2 ** 20 - 1) - (byPsnr ? 2 ** 20 - 2 ** 15 : 0) : Math.min(x, 2 ** 20 - 1);
  };
  const pairs = Float64Array.from(positions, (p) => value(p) * room + p).sort();
  return Uint32Array.from(pairs, (pair) => pair % room);
}
