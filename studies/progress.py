"""How far a study is: its finished cells on disk, and a line on a terminal or now and then elsewhere."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status

# Seconds between two lines where there is no terminal.
QUIET_FOR = 30.0


class Journal:
    """Finished cells, one JSON line each, after a first line that says what they belong to.

    A line that was cut off as the process ended is measured again. path: of the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def open(self, facts: dict[str, Any]) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Rows by table of each finished cell, if the file belongs to these facts.

        Cells of other settings, another model or another commit are kept under the file's name with `.old`.
        """
        if self._path is None:
            return {}
        head = json.dumps(facts)
        # What follows the last line break was not written to its end.
        lines = self._path.read_text(encoding="utf-8").split("\n")[:-1] if self._path.is_file() else []
        if lines and lines[0] != head:
            self._path.replace(self._path.with_name(f"{self._path.name}.old"))
            lines = []
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(f"{line}\n" for line in (head, *lines[1:])), encoding="utf-8")
        entries = [json.loads(line) for line in lines[1:]]
        return {entry["cell"]: entry["rows"] for entry in entries}

    def add(self, cell: str, rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
        """Note a finished cell; returns its rows as they will be read."""
        line = json.dumps({"cell": cell, "rows": rows})
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        read: dict[str, list[dict[str, Any]]] = json.loads(line)["rows"]
        return read

    def remove(self) -> None:
        """Once the result is written."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class Progress:
    """Of one study after the other; cells are weighted by how long they take. console: None says nothing."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        is_live = console is not None and console.is_terminal and not console.is_dumb_terminal
        self._status = Status("", console=console) if is_live else None
        self._told_at = -QUIET_FOR
        self.start("", 0, 0.0)

    def start(self, name: str, num: int, total: float) -> None:
        """A study of so many cells begins."""
        self._name, self._num, self._total = name, num, max(total, 1e-9)
        self._num_done, self._done, self._inside, self._known = 0, 0.0, 0.0, 0.0
        self._started = time.monotonic()
        if self._status is not None and num:
            self._status.start()

    def within(self, what: str, share: float, weight: float) -> None:
        """A share of the cell that is being measured is done."""
        self._inside = share * weight
        line = f"{self._name}: {self.figures} · {what}"
        if self._status is not None:
            self._status.update(line)
        elif self._console is not None and time.monotonic() - self._told_at >= QUIET_FOR:
            self._told_at = time.monotonic()
            self._console.print(line)

    def finished(self, weight: float, *, is_new: bool = True) -> None:
        """A cell is done, now or in an earlier run."""
        self._num_done += 1
        self._done += weight
        self._inside = 0.0
        self._known += 0.0 if is_new else weight

    def stop(self) -> None:
        """Remove the line."""
        if self._status is not None:
            self._status.stop()

    @property
    def figures(self) -> str:
        """Count, share and time left."""
        share = min(1.0, (self._done + self._inside) / self._total)
        measured = self._done + self._inside - self._known
        left = "time left unknown"
        if measured > 0:
            minutes = (time.monotonic() - self._started) * self._total * (1 - share) / measured / 60
            left = f"{minutes / 60:.1f} h left" if minutes >= 90 else f"{minutes:.0f} min left"
        return f"{self._num_done} of {self._num} · {share:.0%} · {left}"
