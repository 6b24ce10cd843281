"""Finished cells of a study on disk: one JSON line each, after a first line that says what they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Journal:
    """Append-only. A line that was cut off as the process ended is measured again.

    path: of the file; None keeps nothing.
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
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        lines = self._path.read_text(encoding="utf-8").split("\n") if self._path.is_file() else []
        # What follows the last line break was not written to its end.
        whole = lines[:-1]
        if whole and whole[0] == head:
            for line in whole[1:]:
                entry = json.loads(line)
                found[entry["cell"]] = entry["rows"]
        elif whole:
            self._path.replace(self._path.with_name(f"{self._path.name}.old"))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = [head, *(json.dumps({"cell": cell, "rows": rows}) for cell, rows in found.items())]
        self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        return found

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
