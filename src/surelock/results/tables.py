"""The result files of a run: a table as CSV and Markdown, everything as JSON, texts as JSON lines, pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from surelock.results.whole_file import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


def write_results(
    folder: Path,
    name: str,
    *,
    rows: Sequence[Row],
    facts: Mapping[str, Any],
    title: str | None = None,
    page: str | None = None,
    samples: Iterable[Row] = (),
    figure: Figure | None = None,
) -> list[Path]:
    """Write the files of one measurement, each of them whole, and return their paths.

    Args:
        folder: an existing one.
        name: NAME.csv and NAME.json are always written.
        rows: the table in NAME.csv.
        facts: what NAME.json holds beside the rows: the command, the environment, the method. Its own "rows" go first.
        title: of NAME.md, which then shows the method and the rows. `page`: the whole of NAME.md instead.
        samples: lines of NAME_samples.jsonl, which is left out if there are none.
        figure: drawn in NAME.png and NAME.svg.
    """
    files = {".csv": csv_table(rows).encode()}
    if title is not None:
        page = f"# {title}\n\n{facts.get('method', '')}\n\n{markdown_table(rows)}"
    if page is not None:
        files[".md"] = page.encode()
    files[".json"] = json_text({**facts, "rows": facts.get("rows", list(rows))})
    if lines := b"".join(orjson.dumps(sample) + b"\n" for sample in samples):
        files["_samples.jsonl"] = lines
    if figure is not None:
        from surelock.results.figures import image

        files |= {f".{kind}": image(figure, kind) for kind in ("png", "svg")}
    for suffix, data in files.items():
        write_whole(folder / f"{name}{suffix}", data)
    return [folder / f"{name}{suffix}" for suffix in files]


def json_text(content: Mapping[str, Any]) -> bytes:
    """An indented JSON object and a line feed; what is not finite becomes null."""
    return orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n"


def csv_table(rows: Sequence[Row]) -> str:
    """Every column of any row, numbers in full; a cell without a value is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
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
