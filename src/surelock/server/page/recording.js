// One run: what its frames said, and the state of every position at every step.

export class Recording {
  /** @param request {path, body} as it was sent. */
  constructor(request) {
    this.request = request;
    this.frames = [];
    this.positions = [];
    this.rows = [];
    // Share of the FLOPs up to each step that locking saved.
    this.saved = [];
    this.numSteps = 0;
    this.numPrompt = 0;
    this.seconds = 0;
    this.text = "";
    this.status = "running";
  }

  get isLocking() {
    return this.request.body.lock !== false;
  }

  /** Steps that are recorded. */
  get step() {
    return this.rows.length;
  }

  get numPositions() {
    return this.positions.length;
  }

  /** Take in the object `surelock` of a chunk (docs/serving.md, "Position patches"). */
  apply(frame) {
    this.frames.push(frame);
    this.numSteps = frame.num_steps;
    this.seconds = frame.seconds;
    if (frame.canvas) {
      this.numPrompt = frame.canvas.num_prompt;
      this.positions = frame.canvas.tokens.map((text) => position(text));
    }
    if (frame.restarted) {
      this.rows = [];
      this.saved = [];
      this.positions = this.positions.map((each) => position(each.isGiven ? each.text : null));
    }
    if (!frame.patch) return;
    for (const [at, text, confidence, step] of frame.patch.tokens) {
      Object.assign(this.positions[at], { text, confidence, unmaskedAt: step });
    }
    for (const [at, step] of frame.patch.locked) this.positions[at].lockedAt = step;
    this.rows.push(...frame.patch.rows);
    // A frame of several steps knows the share at its last one.
    this.saved.push(...frame.patch.rows.map(() => frame.saved_flops));
  }

  isMasked(at, step) {
    const { isGiven, unmaskedAt } = this.positions[at];
    return !isGiven && !(unmaskedAt <= step);
  }

  isLocked(at, step) {
    return this.positions[at].lockedAt <= step;
  }

  /** "masked", "fresh", "unmasked", "locked", "prompt" or "prompt locked" once a step is done. */
  state(at, step) {
    const { isGiven, unmaskedAt } = this.positions[at];
    if (isGiven) return this.isLocked(at, step) ? "prompt locked" : "prompt";
    if (this.isMasked(at, step)) return "masked";
    if (this.isLocked(at, step)) return "locked";
    return unmaskedAt === step ? "fresh" : "unmasked";
  }

  /** Sums up to a step. */
  totals(step) {
    const done = Math.min(step, this.step);
    const numRows = this.rows.slice(0, done).reduce((sum, rows) => sum + rows, 0);
    const numAll = done * this.numPositions;
    let masked = 0;
    let locked = 0;
    for (let at = 0; at < this.numPositions; at += 1) {
      masked += this.isMasked(at, step);
      locked += this.isLocked(at, step);
    }
    return { done, numRows, numAll, saved: done ? this.saved[done - 1] : 0, masked, locked };
  }
}

function position(text) {
  return { text, isGiven: text !== null, confidence: null, unmaskedAt: undefined, lockedAt: undefined };
}
