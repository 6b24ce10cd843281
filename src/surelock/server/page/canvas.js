// A canvas, position by position, at one step of its run.

import { element } from "./elements.js";

const SPECIAL = /^<\|.+\|>$/;
// From this share of the steps on, the colour of a lock's time is light.
const LATE = 0.55;

export class CanvasView {
  /** @param onSelect called with a position when somebody clicks it or moves to it with the arrow keys. */
  constructor(recording, title, onSelect) {
    this.recording = recording;
    this.onSelect = onSelect;
    this.selected = null;
    this.spans = [];
    this.root = element("figure", "canvas");
    this.root.append(element("figcaption", "", title));
    this.tokens = element("div", "tokens");
    this.tokens.tabIndex = 0;
    this.tokens.setAttribute("role", "group");
    this.tokens.setAttribute("aria-label", `Canvas, ${title}; arrow keys tell about a position`);
    this.tokens.addEventListener("click", (event) => {
      const at = this.spans.indexOf(event.target);
      if (at >= 0) this.#select(at);
    });
    this.tokens.addEventListener("keydown", (event) => this.#onKey(event));
    this.root.append(this.tokens);
  }

  /** Draw a step. `other` is the recording beside this one, if there is one. */
  draw(step, other) {
    const { recording } = this;
    while (this.spans.length < recording.numPositions) {
      const span = element("span", "token");
      this.spans.push(span);
      this.tokens.append(span);
    }
    this.spans.forEach((span, at) => {
      const { text, lockedAt } = recording.positions[at];
      const isMasked = recording.isMasked(at, step);
      const isSpecial = !isMasked && SPECIAL.test(text);
      const marks = [
        "token",
        recording.state(at, step),
        isSpecial ? "special" : "",
        at === this.selected ? "selected" : "",
        lockedAt > LATE * recording.numSteps ? "late" : "",
        !isMasked && other && !other.isMasked(at, step) && other.positions[at].text !== text ? "differs" : "",
      ];
      const className = marks.filter(Boolean).join(" ");
      if (span.className !== className) span.className = className;
      const shown = isMasked ? "" : isSpecial ? "\u00b7" : text.replaceAll("\n", "\u21b5\n");
      if (span.textContent !== shown) span.textContent = shown;
      if (recording.isLocked(at, step)) span.style.setProperty("--time", lockedAt / recording.numSteps);
    });
  }

  /** What happened to a position until a step, in one line. */
  describe(at, step) {
    const { recording } = this;
    const { text, isGiven, confidence, unmaskedAt, lockedAt } = recording.positions[at];
    const parts = [`position ${at}`];
    if (recording.isMasked(at, step)) return [...parts, "masked"].join(" \u00b7 ");
    parts.push(JSON.stringify(text));
    parts.push(isGiven ? "prompt" : `unmasked at step ${unmaskedAt} with probability ${confidence.toFixed(2)}`);
    parts.push(recording.isLocked(at, step) ? `locked at step ${lockedAt}` : "not locked");
    return parts.join(" \u00b7 ");
  }

  #select(at) {
    this.selected = Math.max(0, Math.min(at, this.spans.length - 1));
    this.onSelect(this, this.selected);
    this.spans[this.selected].scrollIntoView({ block: "nearest" });
  }

  #onKey(event) {
    const last = this.spans.length - 1;
    const from = this.selected ?? -1;
    const to = { ArrowRight: from + 1, ArrowLeft: from - 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.#select(to);
  }
}
