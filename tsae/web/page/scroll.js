// Where a list is scrolled to, though browsers cannot scroll as far as a million rows go: some 10 million pixels are real, and
// longer lists are mapped to them. Small steps move the list pixel by pixel; a drag of the scroll bar goes where it points.

export const MOST_PX = 8_000_000;
const REST_MS = 160;

export class ScrollRange {
  constructor(box, spacer, onMove) {
    Object.assign(this, { box, spacer, onMove, height: 0, view: 0, top: 0, real: 0, last: 0, timer: null });
    box.addEventListener("scroll", () => this.scrolled(), { passive: true });
  }

  get room() {
    return Math.max(this.height - this.view, 0);
  }

  get realRoom() {
    return Math.max(this.real - this.view, 0);
  }

  // `view` is how much of the height is seen at once.
  resize(height, view) {
    Object.assign(this, { height, view });
    this.real = Math.min(height, MOST_PX);
    this.spacer.style.height = `${this.real}px`;
  }

  to(top) {
    this.top = Math.max(0, Math.min(top, this.room));
    this.anchor();
    this.onMove();
  }

  // Puts the scroll bar where the list is.
  anchor() {
    this.last = this.room ? Math.round((this.top / this.room) * this.realRoom) : 0;
    this.box.scrollTop = this.last;
    this.last = this.box.scrollTop;
  }

  scrolled() {
    const now = this.box.scrollTop, step = now - this.last;
    if (!step) return;
    this.last = now;
    const isShort = this.real === this.height, isFar = Math.abs(step) > 4 * this.view;
    if (isShort) this.top = now;
    else if (isFar || now === 0 || now >= this.realRoom) this.top = (now / this.realRoom) * this.room;
    else this.top = Math.max(0, Math.min(this.top + step, this.room));
    this.onMove();
    clearTimeout(this.timer);
    if (!isShort) this.timer = setTimeout(() => this.anchor(), REST_MS);
  }

  // Where on the real sheet something lies that is at `y` of the list.
  place(y) {
    return y - this.top + this.last;
  }
}
