// The form above the grid: shows the state, and changes it.
import { count } from "./format.js";
import { LOSSLESS, NO_LABEL, SORTS } from "./selection.js";

const TYPING_MS = 250, QUALITIES = 32;
const NAMES = ["q", "label", "quality", "min", "max", "sort", "size", "theme"], FILTERS = ["q", "label", "quality", "min", "max", "sort"];
const $ = (id) => document.getElementById(id);

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

export function connectControls(address, catalogue) {
  $("sort").append(...Object.entries(SORTS).map(([value, text]) => option(value, text)));
  const most = catalogue.description.quality ? Math.min(QUALITIES, Math.max(8, catalogue.description.quality)) : 0;
  for (let quality = 1; quality <= most; quality++) $("quality").append(option(String(quality), String(quality)));
  $("quality").append(option(LOSSLESS, "lossless"));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  let timer = null;
  for (const name of NAMES) {
    const isTyped = $(name).matches("input");
    $(name).addEventListener(isTyped ? "input" : "change", () => {
      clearTimeout(timer);
      const act = () => address.set({ ...Object.fromEntries(FILTERS.map((each) => [each, $(each).value.trim()])), at: "" }, isTyped);
      if (isTyped) timer = setTimeout(act, TYPING_MS);
      else if (name === "size" || name === "theme") address.set({ [name]: $(name).value });
      else act();
    });
  }
  $("more").addEventListener("click", () => {
    const isOpen = $("controls").classList.toggle("open");
    $("more").setAttribute("aria-expanded", String(isOpen));
  });
  $("reset").addEventListener("click", () => {
    address.set({ ...Object.fromEntries(FILTERS.map((name) => [name, ""])), at: "" });
    $("q").focus();
  });
}

export function showControls(address, state) {
  for (const name of NAMES) {
    const control = $(name);
    if (control.matches("select") && state[name] && !Array.from(control.options).some(({ value }) => value === state[name]))
      control.append(option(state[name], state[name])); // not known yet: labels come with the index
    if (control !== document.activeElement || control.value.trim() !== state[name]) control.value = state[name];
  }
  $("reset").hidden = !FILTERS.some((name) => state[name]);
  const isStats = state.view === "stats";
  $("to-grid").href = address.href({ view: "" });
  $("to-stats").href = address.href({ view: "stats" });
  $(isStats ? "to-stats" : "to-grid").setAttribute("aria-current", "page");
  $(isStats ? "to-grid" : "to-stats").removeAttribute("aria-current");
}

// Labels in the order of their names, numbers by their value.
export function fillLabels(catalogue, state) {
  const names = catalogue.labels.slice(1).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  if ($("label").options.length === names.length + 2) return;
  $("label").replaceChildren(option("", `all ${count(names.length)}`), ...names.map((name) => option(name, name)), option(NO_LABEL, "(none)"));
  $("label").value = state.label;
}
