"""Result files: everything as JSON, the table as CSV, pictures as PNG and SVG."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

from surelock.bench.result import BenchResult
from surelock.errors import ParameterError
from surelock.results.result_folder import check_folder


def check_output(folder: Path, *, plots: bool) -> None:
    """Make the folder, before anything is measured.

    Raises:
        ParameterError: it cannot be written, or plots are wanted and matplotlib is missing.
    """
    if plots and importlib.util.find_spec("matplotlib") is None:
        raise ParameterError("--out draws plots with matplotlib: pip install 'surelock[plots]', or add --no-plots")
    check_folder(folder)


def write_result(folder: Path, result: BenchResult, content: dict[str, Any], *, plots: bool) -> list[Path]:
    """Write NAME.json, NAME.csv and, with plots, NAME.png and NAME.svg; returns their paths."""
    written = {
        folder / f"{result.benchmark}.json": (json.dumps(content, indent=1) + "\n").encode(),
        folder / f"{result.benchmark}.csv": _table(result).encode(),
    }
    if plots:
        from surelock.bench.plot import draw, image

        figure = draw(result)
        written |= {folder / f"{result.benchmark}.{suffix}": image(figure, suffix) for suffix in ("png", "svg")}
    for path, data in written.items():
        path.write_bytes(data)
    return list(written)


def _table(result: BenchResult) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(result.rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.rows)
    return text.getvalue()
