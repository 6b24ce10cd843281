// Wires the parts together: the form starts runs, the player says which step the views show.

import { Api } from "./api.js";
import { CanvasView } from "./canvas.js";
import { byId } from "./elements.js";
import { showFigures } from "./figures.js";
import { Player } from "./player.js";
import { Recording } from "./recording.js";
import { gaps, requestOf, unlocked } from "./request.js";
import { startTheme } from "./theme.js";
import { Timeline } from "./timeline.js";
import { readTrace, traceText } from "./trace.js";

const EXAMPLES = {
  chat:
    "Write a Python function keep(xs) that takes the numbers that are even, squares each and returns the sum. " +
    "Use a loop.",
  text: "The sea was [[12]], and the sky above the harbour was [[8]].",
};
const NUMBERS = ["max_tokens", "steps", "block_length", "temperature", "seed", "kl_threshold"];

const form = byId("form");
const prompt = byId("prompt");
const api = new Api(() => byId("key").value.trim());
const player = new Player(byId("step"), byId("play"), drawStep);
const labels = { positions: byId("positions"), rows: byId("rows") };
const timeline = new Timeline(byId("map"), byId("curve"), labels, (step) => player.show(step));

let model = "";
let recordings = [];
let views = [];
let selection = null;
let running = null;

startTheme(byId("theme"));
prompt.value = EXAMPLES.chat;
for (const radio of form.elements.mode) radio.addEventListener("change", onMode);
for (const radio of document.getElementsByName("colour")) radio.addEventListener("change", onColour);
prompt.addEventListener("input", showHint);
byId("lock").addEventListener("change", () => (byId("kl_threshold").disabled = !byId("lock").checked));
byId("key").addEventListener("change", () => void askModel());
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) void runNew();
});
byId("compare").addEventListener("click", () => void runUnlocked());
byId("cancel").addEventListener("click", () => running?.abort());
byId("save").addEventListener("click", save);
byId("load").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", () => void load());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
showHint();
void askModel();

function mode() {
  return form.elements.mode.value;
}

function onMode() {
  if (prompt.value === "" || Object.values(EXAMPLES).includes(prompt.value)) prompt.value = EXAMPLES[mode()];
  showHint();
}

function onColour() {
  byId("result").dataset.colour = document.querySelector("[name=colour]:checked").value;
}

function showHint() {
  const sizes = gaps(prompt.value);
  const isTemplate = mode() === "text" && sizes.length > 0;
  const total = sizes.reduce((sum, size) => sum + size, 0);
  byId("max_tokens").disabled = isTemplate;
  byId("prompt-hint").textContent =
    mode() === "chat"
      ? "One turn, under the model's chat template."
      : isTemplate
        ? `${sizes.length} ${sizes.length === 1 ? "gap" : "gaps"}, ${total} positions to fill.`
        : "Continued as it is. [[12]] leaves a gap of 12 positions.";
}

async function askModel() {
  try {
    const { id, max_model_len: length } = await api.model();
    model = id;
    byId("model").textContent = `${id} \u00b7 ${length} positions`;
    showError("");
  } catch (error) {
    fail(error);
  }
}

async function runNew() {
  showError("");
  let request;
  try {
    const values = Object.fromEntries(NUMBERS.map((name) => [name, byId(name).value]));
    request = requestOf(mode(), prompt.value, byId("lock").checked, values);
  } catch (error) {
    fail(error);
    return;
  }
  await run(request, []);
}

async function runUnlocked() {
  showError("");
  await run(unlocked(recordings[0].request), recordings.slice(0, 1));
}

/** Run a request and show it after the recordings `before` it. */
async function run(request, before) {
  const recording = new Recording(request);
  running = new AbortController();
  setRunning(true);
  announce(before.length ? "Running with locking off." : "Running.");
  try {
    for await (const chunk of api.stream(request.path, request.body, running.signal)) {
      const [choice] = chunk.choices;
      recording.apply(chunk.surelock);
      recording.text = choice.text ?? choice.delta.content;
      if (recording.frames.length === 1) {
        show([...before, recording]);
        player.follow(recording.numSteps);
      }
      timeline.draw(recordings[0]);
      player.arrived(recording.step);
    }
    recording.status = "finished";
    announce(`Finished in ${recording.step} steps:\n${recording.text}`);
  } catch (error) {
    recording.status = error.name === "AbortError" ? "cancelled" : "failed";
    if (recording.status === "failed") fail(error);
    else announce(recording.step ? `Cancelled after step ${recording.step} of ${recording.numSteps}.` : "Cancelled.");
  } finally {
    running = null;
    setRunning(false);
    drawStep(player.step);
  }
}

/** Put recordings on the page, one or two. */
function show(shown) {
  recordings = shown;
  selection = null;
  byId("detail").textContent = "";
  const titles = shown.length > 1 ? ["locking on", "locking off"] : [shown[0].isLocking ? "locking on" : "locking off"];
  views = shown.map((each, index) => new CanvasView(each, titles[index], select));
  byId("canvases").replaceChildren(...views.map((view) => view.root));
  byId("result").classList.toggle("pair", shown.length > 1);
  byId("result").classList.add("filled");
  timeline.draw(shown[0]);
}

function drawStep(step) {
  if (!recordings.length) return;
  const [first, second] = recordings;
  views.forEach((view, index) => view.draw(step, recordings[1 - index]));
  timeline.show(step);
  showFigures(byId("figures"), first, step, second?.status === "finished" ? second : undefined);
  if (selection) byId("detail").textContent = selection.view.describe(selection.at, step);
}

function select(view, at) {
  for (const each of views) each.selected = at;
  selection = { view, at };
  drawStep(player.step);
}

function setRunning(isRunning) {
  byId("run").disabled = isRunning;
  byId("cancel").disabled = !isRunning;
  byId("load").disabled = isRunning;
  byId("save").disabled = isRunning || !recordings.length;
  byId("compare").disabled = isRunning || recordings[0]?.status !== "finished" || !recordings[0].isLocking;
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([traceText(model, recordings)], { type: "application/json" }));
  link.download = "surelock-trace.json";
  link.click();
  URL.revokeObjectURL(link.href);
  announce("Trace saved.");
}

async function load() {
  const [file] = byId("file").files;
  byId("file").value = "";
  if (!file || running) return;
  showError("");
  try {
    const trace = await readTrace(file);
    model = trace.model;
    show(trace.recordings);
    player.follow(Math.max(...recordings.map((each) => each.numSteps)));
    player.arrived(Math.max(...recordings.map((each) => each.step)));
    setRunning(false);
    announce(`Trace loaded: ${trace.model}, ${recordings[0].step} steps.`);
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  announce("");
  showError(error.message);
  if (error.status !== 401) return;
  byId("key-field").hidden = false;
  byId("key").focus();
}

function showError(message) {
  byId("error").textContent = message;
}

function announce(message) {
  byId("status").textContent = message;
}
