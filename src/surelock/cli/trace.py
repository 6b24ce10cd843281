"""`--trace`: one JSON line per step."""

from __future__ import annotations

from pathlib import Path

import orjson

from surelock.cli.files import PartialFile
from surelock.output import StepUpdate


class TraceWriter(PartialFile):
    """Writes each step of each prompt as `{"prompt", "step", "rows", "masked", "commits", "locks", "kl"}`.

    `rows` counts the positions computed in the step, `masked` those still masked after it, `commits` lists
    `[position, token_id, confidence]`, `locks` lists positions, and `kl` maps positions to nats, null where the
    directly preceding step had no posterior. An aborted run leaves `PATH.partial`.

    Raises:
        ParameterError: the path cannot be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("--trace", path, keep_partial=True)

    def update(self, update: StepUpdate) -> None:
        """Append the step's line."""
        canvas = update.canvas_token_ids
        commits = zip(update.committed, update.confidence, strict=True)
        line = {
            "prompt": update.index,
            "step": update.step,
            "rows": update.active_rows,
            "masked": canvas.count(None),
            "commits": [[position, canvas[position], confidence] for position, confidence in commits],
            "locks": update.locked_now,
            "kl": update.kl,
        }
        self.file.write(orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE))
