"""Result files of an evaluation: the table as CSV and Markdown, everything as JSON, texts as JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

Row = Mapping[str, Any]


def write_results(
    folder: Path, name: str, *, title: str, facts: Mapping[str, Any], rows: Sequence[Row], samples: Sequence[Row] = ()
) -> list[Path]:
    """Write NAME.csv, NAME.md, NAME.json and, if there are samples, NAME_samples.jsonl; returns their paths.

    `facts` are the JSON file's other members: the command, the environment, the method.
    """
    written = {
        folder / f"{name}.csv": csv_table(rows).encode(),
        folder / f"{name}.md": f"# {title}\n\n{facts.get('method', '')}\n\n{markdown_table(rows)}".encode(),
        folder / f"{name}.json": orjson.dumps({**facts, "rows": list(rows)}, option=orjson.OPT_INDENT_2) + b"\n",
    }
    if samples:
        written[folder / f"{name}_samples.jsonl"] = b"".join(orjson.dumps(sample) + b"\n" for sample in samples)
    for path, data in written.items():
        path.write_bytes(data)
    return list(written)


def csv_table(rows: Sequence[Row]) -> str:
    """The rows with their keys as header; a cell without a value is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows for readers: three significant digits, and no column that is empty in all of them."""
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    numeric = [all(not isinstance(row[name], str) for row in rows) for name in names]
    lines = [
        names,
        ["---:" if is_numeric else "---" for is_numeric in numeric],
        *([shown_cell(row[name]) for name in names] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown_cell(value: Any) -> str:
    """One value of a table as text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
