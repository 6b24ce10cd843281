// Every position over every step, and the rows computed in each, above the scrubber and in its scale.

import { svg } from "./elements.js";
import { count } from "./format.js";

export class Timeline {
  /** @param onScrub called with the step somebody points at. */
  constructor(map, curve, labels, onScrub) {
    this.labels = labels;
    this.map = plot(map, "Each position over the steps: masked, unmasked, locked");
    this.curve = plot(curve, "Rows computed in each step");
    this.areas = Object.fromEntries(["masked", "active", "locked"].map((name) => [name, path(this.map, name)]));
    this.prompt = path(this.map, "prompt");
    this.reference = path(this.curve, "reference");
    this.area = path(this.curve, "area");
    this.line = path(this.curve, "line");
    this.heads = [map, curve].map((element) => {
      const head = document.createElement("div");
      head.className = "head";
      element.append(head);
      return head;
    });
    this.numSteps = 0;
    for (const element of [map, curve]) {
      const scrub = (event) => {
        const { left, width } = element.getBoundingClientRect();
        if (event.buttons & 1) onScrub(Math.round(((event.clientX - left) / width) * this.numSteps));
      };
      element.addEventListener("pointerdown", scrub);
      element.addEventListener("pointermove", scrub);
    }
  }

  /** Draw what is recorded. Step s is the interval from s - 1 to s. */
  draw(recording) {
    const { positions, rows, numSteps, numPositions, step: done } = recording;
    this.numSteps = numSteps;
    this.map.setAttribute("viewBox", `0 0 ${numSteps} ${numPositions}`);
    this.curve.setAttribute("viewBox", `0 0 ${numSteps} ${numPositions}`);
    const drawn = { masked: "", active: "", locked: "" };
    positions.forEach(({ isGiven, unmaskedAt = Infinity, lockedAt = Infinity }, at) => {
      const start = isGiven ? 0 : Math.min(unmaskedAt, done);
      const end = Math.min(lockedAt, done);
      if (start > 0) drawn.masked += bar(0, start, at);
      if (end > start) drawn.active += bar(start, end, at);
      if (done > end) drawn.locked += bar(end, done, at);
    });
    for (const [name, area] of Object.entries(this.areas)) area.setAttribute("d", drawn[name]);
    this.prompt.setAttribute("d", `M0 ${recording.numPrompt}H${numSteps}`);
    const steps = rows.map((value, index) => `L${index} ${numPositions - value}H${index + 1}`).join("");
    this.line.setAttribute("d", rows.length ? `M0 ${numPositions - rows[0]}${steps}` : "");
    this.area.setAttribute("d", rows.length ? `M0 ${numPositions}${steps}V${numPositions}Z` : "");
    this.reference.setAttribute("d", `M0 0H${numSteps}`);
    this.labels.positions.textContent = count(numPositions);
    this.labels.rows.textContent = `${count(numPositions)} rows`;
  }

  /** Mark a step. */
  show(step) {
    for (const head of this.heads) head.style.left = `${this.numSteps ? (100 * step) / this.numSteps : 0}%`;
  }
}

function plot(parent, label) {
  const made = svg("svg", { preserveAspectRatio: "none", role: "img", "aria-label": label });
  parent.append(made);
  return made;
}

function path(parent, name) {
  const made = svg("path", { class: name });
  parent.append(made);
  return made;
}

function bar(from, to, at) {
  return `M${from} ${at}H${to}V${at + 1}H${from}Z`;
}
