// The state of the page, which is its address: every view can be shared, and the browser's Back works.

export const DEFAULTS = { q: "", label: "", quality: "", min: "", max: "", sort: "", view: "", at: "", open: "", size: "m", theme: "", pixels: "" };
const HISTORY_MS = 400;

export class Address {
  constructor(onChange) {
    this.onChange = onChange;
    this.state = this.read();
    this.timer = null;
    addEventListener("popstate", () => {
      const before = this.state;
      this.state = this.read();
      this.onChange(this.state, before);
    });
  }

  read() {
    const found = new URLSearchParams(location.search);
    return Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, found.get(name) ?? value]));
  }

  // The address of a state that differs from this one.
  href(changes) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries({ ...this.state, ...changes }))
      if (String(value) !== DEFAULTS[name]) query.set(name, value);
    return query.size ? `?${query}` : location.pathname;
  }

  // Changes the state; a step that Back undoes, unless `replace`.
  set(changes, replace = false) {
    const before = this.state;
    const next = { ...before, ...Object.fromEntries(Object.entries(changes).map(([name, value]) => [name, String(value)])) };
    if (Object.keys(next).every((name) => next[name] === before[name])) return;
    clearTimeout(this.timer);
    const href = this.href(changes);
    this.state = next;
    history[replace ? "replaceState" : "pushState"](null, "", href);
    this.onChange(next, before);
  }

  // Notes what changes all the time, such as the place in the grid; browsers allow only so many steps a second.
  note(changes) {
    Object.assign(this.state, changes);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => history.replaceState(null, "", this.href({})), HISTORY_MS);
  }
}
