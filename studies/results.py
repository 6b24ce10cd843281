"""Result files: a page, JSON, a CSV file for each table, pictures. Older results are read as well."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.study import shown
from surelock.results.environment import environment
from surelock.results.figures import image
from surelock.results.tables import csv_table, markdown_table
from surelock.results.whole_file import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from studies.study import Result, Row


def write_result(folder: Path, result: Result, command: str) -> list[Path]:
    """Write NAME.md, a CSV file for each table, the pictures and, last, NAME.json; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    study = result.study
    tables = {table: result.rows[table.name] for table in study.tables if result.rows[table.name]}
    figures = {plot: figure for plot in study.plots if (figure := plot.draw(result.rows)) is not None}
    content = {
        "experiment": study.number, "name": study.name, "title": study.title, "command": command,
        "environment": environment(), "method": result.method, "facts": result.facts, "left_out": result.left_out,
        "tables": [
            {"name": table.name, "caption": table.caption, "columns": table.columns.split() or _names(rows)}
            | {"rows": rows}
            for table, rows in tables.items() if table.columns is not None
        ],
        "pictures": [{"name": plot.name, "caption": plot.caption} for plot in figures],
    }  # fmt: skip
    files = {
        f"{study.name}.md": page(content).encode(),
        **{f"{table.name}.csv": csv_table(rows).encode() for table, rows in tables.items()},
        **{f"{plot.name}.png": png(figure) for plot, figure in figures.items()},
        # Last: whatever it names is there, also if the run is cut off here.
        f"{study.name}.json": (json.dumps(content, indent=1) + "\n").encode(),
    }
    for name, data in files.items():
        write_whole(folder / name, data)
    return [folder / name for name in files]


def page(content: dict[str, Any]) -> str:
    """The page of a result, from the object of its JSON file."""
    lines = [f"# {content['title']}", "", content["method"]]
    for table in content["tables"]:
        names = [name for name in table["columns"] if any(row.get(name) is not None for row in table["rows"])]
        rows = [[shown(row.get(name)).replace("|", "\\|") for name in names] for row in table["rows"]]
        cells = [dict(zip([name.replace("_", " ") for name in names], row, strict=True)) for row in rows]
        heading = table["name"].replace("_", " ").capitalize()
        lines += ["", f"## {heading}", "", table["caption"], "", markdown_table(cells).rstrip("\n")]
    for picture in content["pictures"]:
        lines += ["", f"![{picture['caption']}]({picture['name']}.png)", "", picture["caption"]]
    if content["left_out"]:
        lines += ["", "## Left out", "", *(f"- {line}" for line in content["left_out"])]
    lines += ["", "## Made by", "", f"`{content['command']}`", ""]
    machine = content["environment"]
    facts = content["facts"] | {name: machine[name] for name in ("processor", "gpu", "torch", "commit")}
    lines += [f"- {name.replace('_', ' ')}: {shown(value)}" for name, value in facts.items() if value is not None]
    return "\n".join(lines) + "\n"


def read_tables(path: Path) -> dict[str, list[Row]]:
    """Rows by table of a result's JSON file, those written before studies had their own folder included."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if "tables" in content:
        return {table["name"]: table["rows"] for table in content["tables"]}
    lists = {name: rows for name, rows in content.items() if isinstance(rows, list) and rows}
    return {name: rows for name, rows in lists.items() if isinstance(rows[0], dict)}


def png(figure: Figure) -> bytes:
    """The figure with a palette of its own colours: a quarter of the size, with no difference to the eye."""
    from PIL import Image

    small = io.BytesIO()
    drawn = Image.open(io.BytesIO(image(figure, "png"))).convert("RGB")
    palette = drawn.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(small, "PNG", optimize=True)
    return small.getvalue()


def _names(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
