"""`--trace`: one JSON line per step."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import orjson

from surelock.cli.files import check_writable
from surelock.errors import ParameterError
from surelock.output import StepUpdate


class TraceWriter(AbstractContextManager["TraceWriter"]):
    """Writes each step of each prompt as `{"prompt", "step", "rows", "masked", "commits", "locks", "kl"}`.

    `rows` counts the positions computed in the step, `masked` those still masked after it, `commits` lists
    `[position, token_id, confidence]`, `locks` lists positions, and `kl` maps positions to nats, null where the
    directly preceding step had no posterior. An aborted run leaves `PATH.partial`.

    Raises:
        ParameterError: the path cannot be written.
    """

    def __init__(self, path: Path) -> None:
        check_writable("--trace", path)
        # A link keeps pointing at the file it names.
        self._path = path.resolve()
        try:
            # At once, so that a path that cannot be written is found before the model runs.
            self._file = self._path.with_name(self._path.name + ".partial").open("wb")
        except OSError as error:
            raise ParameterError(f"--trace {path} cannot be written: {error.strerror}") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            Path(self._file.name).replace(self._path)

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
        self._file.write(orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE))
