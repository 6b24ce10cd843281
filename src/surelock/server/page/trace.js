// Recordings as a JSON file, and back. A file may come from anybody, so everything in it is checked.

import { Recording } from "./recording.js";

const FORMAT = "surelock page trace";
const VERSION = 1;
const MAX_SIZE = 64 << 20;
const PATHS = ["v1/chat/completions", "v1/completions"];
const STATUSES = ["finished", "cancelled", "failed"];

/** The text of a trace file. */
export function traceText(model, recordings) {
  const runs = recordings.map(({ request, frames, text, status }) => ({ ...request, frames, text, status }));
  return JSON.stringify({ format: FORMAT, version: VERSION, model, runs });
}

/** The recordings of a trace file; throws an Error of one line that says what is wrong with it. */
export async function readTrace(file) {
  const wrong = (what) => new Error(`${file.name} ${what}: choose a file that this page saved`);
  if (file.size > MAX_SIZE) throw wrong(`has ${file.size} bytes, the limit is ${MAX_SIZE}`);
  let trace;
  try {
    trace = JSON.parse(await file.text());
  } catch {
    throw wrong("is not JSON");
  }
  if (trace?.format !== FORMAT) throw wrong("is not a trace");
  if (trace.version !== VERSION) throw wrong(`is not of version ${VERSION}`);
  if (!Array.isArray(trace.runs) || trace.runs.length < 1 || trace.runs.length > 2) throw wrong("has no runs");
  const recordings = trace.runs.map((run) => recordingOf(run, wrong));
  if (recordings.some((each) => each.numPositions !== recordings[0].numPositions)) {
    throw wrong("compares canvases of different lengths");
  }
  return { model: String(trace.model ?? ""), recordings };
}

function recordingOf(run, wrong) {
  const isRequest = isObject(run) && PATHS.includes(run.path) && isObject(run.body);
  if (!isRequest || typeof run.text !== "string" || !STATUSES.includes(run.status)) throw wrong("has a broken run");
  const recording = new Recording({ path: run.path, body: run.body });
  if (!Array.isArray(run.frames) || !isFirst(run.frames[0])) throw wrong("has no first frame");
  for (const frame of run.frames) {
    if (frame !== run.frames[0] && !isFrame(frame, recording)) {
      throw wrong(`has a broken frame, number ${recording.frames.length}`);
    }
    recording.apply(frame);
  }
  if (recording.step > recording.numSteps) throw wrong("has more steps than it says");
  recording.text = run.text;
  recording.status = run.status;
  return recording;
}

function isFirst(frame) {
  return (
    isState(frame) &&
    isObject(frame.canvas) &&
    Number.isInteger(frame.canvas.num_prompt) &&
    Array.isArray(frame.canvas.tokens) &&
    frame.canvas.tokens.length > 0 &&
    frame.canvas.tokens.every((text) => text === null || typeof text === "string")
  );
}

function isFrame(frame, { numPositions, numSteps }) {
  const isPosition = (value) => Number.isInteger(value) && value >= 0 && value < numPositions;
  const isStep = (value) => Number.isInteger(value) && value >= 1 && value <= numSteps;
  const isCommit = (each) =>
    Array.isArray(each) &&
    isPosition(each[0]) &&
    typeof each[1] === "string" &&
    typeof each[2] === "number" &&
    isStep(each[3]);
  const isLock = (each) => Array.isArray(each) && isPosition(each[0]) && isStep(each[1]);
  const isRows = (value) => Number.isInteger(value) && value >= 0 && value <= numPositions;
  const patch = frame?.patch;
  return (
    isState(frame) &&
    frame.num_steps === numSteps &&
    frame.canvas === undefined &&
    isObject(patch) &&
    isListOf(patch.tokens, isCommit) &&
    isListOf(patch.locked, isLock) &&
    isListOf(patch.rows, isRows)
  );
}

function isState(frame) {
  const isCount = Number.isInteger(frame?.num_steps) && frame.num_steps >= 1 && frame.num_steps <= 65536;
  return isCount && typeof frame.seconds === "number" && frame.seconds >= 0;
}

function isListOf(value, isItem) {
  return Array.isArray(value) && value.every(isItem);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
