// The numbers of a run at a step.

import { element } from "./elements.js";
import { count, percent, seconds } from "./format.js";

/** Fill the list. `other` is the run with locking off, once it is finished. */
export function showFigures(list, recording, step, other) {
  const { done, numRows, numAll, saved, masked, locked } = recording.totals(step);
  const rows = done ? recording.rows[done - 1] : recording.numPositions;
  const entries = [
    ["step", count(done), `of ${count(recording.numSteps)}`],
    ["masked", count(masked), `of ${count(recording.numPositions)}`],
    ["locked", count(locked), percent(locked / (recording.numPositions || 1))],
    ["rows in step", count(rows), `of ${count(recording.numPositions)}`],
    ["rows so far", count(numRows), `of ${count(numAll)}`],
    ["FLOPs saved", percent(saved), recording.isLocking ? "measuring included" : "locking off"],
  ];
  const isWhole = recording.status === "finished";
  if (other && isWhole) {
    const share = 1 - recording.seconds / other.seconds;
    entries.push(["time", seconds(recording.seconds), `unlocked ${seconds(other.seconds)}`]);
    entries.push(["time saved", percent(share), "of the whole run"]);
    entries.push(["same tokens", percent(agreement(recording, other)), "as unlocked"]);
  } else {
    entries.push(["time", seconds(recording.seconds), isWhole ? "whole run" : "so far"]);
  }
  list.replaceChildren(
    ...entries.map(([name, value, note]) => {
      const entry = element("div");
      entry.append(element("dt", "", name), element("dd", "", value), element("dd", "note", note));
      return entry;
    }),
  );
}

/** Share of the generated positions that hold the same token in both runs. */
function agreement(recording, other) {
  const generated = recording.positions.map((each, at) => [each, other.positions[at]]).filter(([each]) => !each.isGiven);
  return generated.filter(([own, theirs]) => own.text === theirs.text).length / (generated.length || 1);
}
