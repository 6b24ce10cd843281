// Which step is shown: the scrubber, play and pause, and following a run as it goes.

const MAX_SECONDS = 8;
const MIN_STEPS_PER_SECOND = 10;

export class Player {
  /** @param onStep called with the step to show, whenever it changes. */
  constructor(slider, button, onStep) {
    this.slider = slider;
    this.button = button;
    this.onStep = onStep;
    this.last = 0;
    this.isFollowing = false;
    this.timer = null;
    slider.addEventListener("input", () => this.show(slider.valueAsNumber));
    button.addEventListener("click", () => (this.timer ? this.pause() : this.play()));
  }

  get step() {
    return this.slider.valueAsNumber;
  }

  /** Begin a run of so many steps; what arrives is shown until somebody scrubs away from it. */
  follow(numSteps) {
    this.pause();
    this.isFollowing = true;
    this.last = 0;
    this.slider.max = numSteps;
    this.slider.disabled = false;
    this.button.disabled = false;
    this.#set(0);
  }

  /** More steps are there. */
  arrived(last) {
    this.last = last;
    this.#set(this.isFollowing ? last : this.step);
  }

  /** Show a step, as far as there is one; at the newest one the run is followed again. */
  show(step) {
    this.pause();
    const shown = Math.max(0, Math.min(step, this.last));
    this.isFollowing = shown === this.last;
    this.#set(shown);
  }

  play() {
    if (this.step >= this.last) this.#set(0);
    this.isFollowing = false;
    const stepsPerSecond = Math.max(MIN_STEPS_PER_SECOND, this.last / MAX_SECONDS);
    this.timer = setInterval(() => {
      if (this.step < this.last) this.#set(this.step + 1);
      if (this.step >= this.last) this.pause();
    }, 1000 / stepsPerSecond);
    this.button.textContent = "Pause";
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "Play";
  }

  #set(step) {
    this.slider.value = step;
    this.slider.setAttribute("aria-valuetext", `step ${step} of ${this.slider.max}`);
    this.onStep(step);
  }
}
