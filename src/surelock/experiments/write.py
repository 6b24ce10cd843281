"""Result files of an experiment: CSV, a Markdown page, JSON, pictures as PNG and SVG."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surelock.environment import environment
from surelock.errors import ParameterError
from surelock.experiments.result import Result, Table
from surelock.result_folder import check_folder
from surelock.whole_file import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_output(folder: Path) -> None:
    """Make the folder, before anything is measured.

    Raises:
        ParameterError: it cannot be written, or matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ParameterError("experiments draw pictures with matplotlib: pip install 'surelock[plots]'")
    check_folder(folder)


def write_result(folder: Path, result: Result, command: str) -> list[Path]:
    """Write everything to the folder; returns the paths, the page first."""
    folder.mkdir(parents=True, exist_ok=True)
    content = to_dict(result, command)
    written = {folder / f"{result.name}.md": markdown(result, content["environment"], command).encode()}
    written |= {folder / f"{table.name}.csv": table_csv(table).encode() for table in result.tables}
    for picture in result.pictures:
        figure = picture.draw()
        written |= {folder / f"{picture.name}.{suffix}": image(figure, suffix) for suffix in ("png", "svg")}
    # Last, as `surelock report` goes by it: whatever it names is there, also if the run is cut off here.
    written[folder / f"{result.name}.json"] = (json.dumps(content, indent=1) + "\n").encode()
    for path, data in written.items():
        write_whole(path, data)
    return list(written)


def to_dict(result: Result, command: str) -> dict[str, Any]:
    """The object of the JSON file. Tables that no page shows are in their CSV files only."""
    return {
        "experiment": result.number,
        "name": result.name,
        "title": result.title,
        "command": command,
        "environment": environment(),
        "method": result.method,
        "facts": result.facts,
        "findings": result.findings,
        "left_out": result.left_out,
        "tables": [
            {
                "name": table.name,
                "caption": table.caption,
                "columns": [[column.name, column.heading, column.form] for column in table.columns],
                "rows": table.rows,
            }
            for table in result.tables
            if table.on_page
        ],
        "pictures": [{"name": picture.name, "caption": picture.caption} for picture in result.pictures],
    }


def table_csv(table: Table) -> str:
    """All columns, numbers in full; an empty field for none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in table.columns])
    writer.writerows(row.values() for row in table.rows)
    return text.getvalue()


def markdown(result: Result, environment: dict[str, Any], command: str) -> str:
    """The page of an experiment."""
    lines = [f"# {result.number}. {result.title}", "", result.method, "", "## What was found", ""]
    lines += [f"- {sentence}" for sentence in result.findings]
    for table in result.tables:
        if table.on_page:
            lines += ["", f"## {_heading(table.name)}", "", table.caption, "", *_markdown_table(table)]
    for picture in result.pictures:
        lines += ["", f"![{picture.caption}]({picture.name}.png)", "", picture.caption]
    if result.left_out:
        lines += ["", "## Left out", "", *(f"- {line}" for line in result.left_out)]
    lines += ["", "## Made by", "", f"`{command}`", ""]
    facts = result.facts | {key: environment[key] for key in ("processor", "gpu", "torch", "commit")}
    lines += [f"- {name.replace('_', ' ')}: {_plain(value)}" for name, value in facts.items() if value is not None]
    return "\n".join(lines) + "\n"


def image(figure: Figure, suffix: str) -> bytes:
    """The figure as "png" or "svg"; the same figure gives the same bytes."""
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "surelock", "svg.fonttype": "none"}):
        figure.savefig(content, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else {})
    return content.getvalue()


def _heading(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _markdown_table(table: Table) -> list[str]:
    columns = table.shown_columns
    lines = [[str(column.heading) for column in columns], ["---"] * len(columns)]
    lines += [[column.shown(row[column.name]).replace("|", "\\|") for column in columns] for row in table.rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
