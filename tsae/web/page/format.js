// Numbers and names as people read them, and a shorthand for elements.

const whole = new Intl.NumberFormat("en");
export const count = (n) => whole.format(n);
export const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
export const bytes = (n) => `${count(Math.round(n))} B`;
export const decibels = (db) => (db === null ? "not measured" : db >= 100 ? "exact" : `${db.toFixed(1)} dB`);
export const lastParts = (key) => key.split("/").slice(-2).join("/");

// An element with attributes, or properties where a value is no string, and children.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "string" || typeof value === "number") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}
