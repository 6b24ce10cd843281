"""Every result folder below a folder, as one page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import jinja2

from surelock.errors import ParameterError, shown
from surelock.experiments.result import Column

MAX_BYTES: Final = 5 << 20
# A picture of many points is smaller as pixels.
_MAX_SVG_BYTES: Final = 400_000

# Colours of `style` that change on a dark page, by the variable that holds them.
_VARIABLES: Final = {
    "#2b2b2b": "--ink",
    "#767676": "--quiet",
    "#e8e8e8": "--grid",
    "#ffffff": "--page",
    "#0072b2": "--blue",
    "#d55e00": "--red",
    "#56b4e9": "--sky",
}
# What our own pictures never hold: a picture with any of it is not shown as it is.
_UNSAFE: Final = re.compile(
    r"<script|<foreignObject|<image|\son\w+\s*=|href\s*=\s*[\"'](?!#)|url\((?!#)|@import", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Found:
    """One result: where it lies, and its JSON file."""

    folder: Path
    content: dict[str, Any]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", f"{self.content['experiment']}-{self.content['name']}".lower())


def write_report(folder: Path, out: Path) -> list[str]:
    """Bind the results below `folder` into the page `out`; returns the names of what was bound.

    Raises:
        ParameterError: there is no result, a file is damaged, or the page would be larger than `MAX_BYTES`.
    """
    found = _results(folder)
    page = render(found).encode()
    if len(page) > MAX_BYTES:
        raise ParameterError(f"the report has {len(page)} bytes; the limit is {MAX_BYTES}: bind fewer results")
    try:
        out.write_bytes(page)
    except OSError as error:
        raise ParameterError(f"--out {out} cannot be written: {error.strerror}") from None
    return [result.content["name"] for result in found]


def render(found: list[_Found]) -> str:
    """The page."""
    package = files("surelock.experiments")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(package.joinpath("report.html.jinja").read_text())
    return template.render(
        style=package.joinpath("report.css").read_text(),
        results=[_section(result) for result in found],
        runs=sorted({_run(result.content) for result in found}),
    )


def _results(folder: Path) -> list[_Found]:
    if not folder.is_dir():
        raise ParameterError(f"{folder} is not a folder; give the one that --out of surelock experiment named")
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ParameterError(
                f"{path} cannot be read as JSON: {shown(str(error))}; remove it or run again"
            ) from None
        if isinstance(content, dict) and {"experiment", "findings", "tables", "pictures"} <= content.keys():
            found.append(_Found(path.parent, content))
    if not found:
        raise ParameterError(f"{folder} holds no result of surelock experiment; run one with --out {folder}")
    return sorted(found, key=lambda result: (str(result.content["experiment"]), str(result.content["name"])))


def _section(result: _Found) -> dict[str, Any]:
    content = result.content
    try:
        return {
            "anchor": result.anchor,
            "number": content["experiment"],
            "title": content["title"],
            "method": content["method"],
            "findings": content["findings"],
            "left_out": content["left_out"],
            "tables": [_table(table) for table in content["tables"]],
            "pictures": [
                {"caption": picture["caption"], "image": _image(result, str(picture["name"]), picture["caption"])}
                for picture in content["pictures"]
            ],
            "command": content["command"],
            "facts": [(name.replace("_", " "), _plain(value)) for name, value in _facts(content)],
        }
    except ParameterError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ParameterError(f"{result.folder} is not a whole result ({shown(str(error))}); run it again") from None


def _table(table: dict[str, Any]) -> dict[str, Any]:
    columns = [Column(*column) for column in table["columns"]]
    kept = [column for column in columns if column.heading is not None]
    return {
        "caption": table["caption"],
        "headings": [column.heading for column in kept],
        # The first column names the row, so it is to the left whatever it holds.
        "are_numbers": [
            index > 0 and any(isinstance(row[column.name], int | float) for row in table["rows"])
            for index, column in enumerate(kept)
        ],
        "rows": [[column.shown(row[column.name]) for column in kept] for row in table["rows"]],
    }


def _image(result: _Found, name: str, caption: str) -> str:
    """The picture as HTML: drawn with its colours, or as pixels."""
    # Only files beside the result, whatever its JSON says.
    stem = Path(name).name
    svg = _read(result.folder / f"{stem}.svg")
    if svg is not None and len(svg) <= _MAX_SVG_BYTES:
        drawn = _inline(svg.decode(), f"{result.anchor}-{stem}")
        if not _UNSAFE.search(drawn):
            label = f'<svg role="img" aria-label="{html.escape(caption)}" '
            return drawn.replace("<svg ", label, 1)
    png = _read(result.folder / f"{stem}.png")
    if png is None:
        raise ParameterError(f"{result.folder} lacks the picture {stem}.png; run the experiment again")
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'


def _inline(svg: str, prefix: str) -> str:
    """The drawing alone, its names made unique on the page and its colours those of the page."""
    drawn = svg[svg.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'(<svg [^>]*?)\s(?:width|height)="[^"]*"', r"\1", drawn)
    drawn = re.sub(r'(<svg [^>]*?)\s(?:width|height)="[^"]*"', r"\1", drawn)
    drawn = re.sub(r'\sxmlns(?::\w+)?="[^"]*"', "", drawn)
    drawn = re.sub(r'\bid="', f'id="{prefix}-', drawn)
    drawn = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', drawn)
    drawn = drawn.replace("url(#", f"url(#{prefix}-")
    for colour, variable in _VARIABLES.items():
        drawn = drawn.replace(colour, f"var({variable})")
    return drawn


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _run(content: dict[str, Any]) -> str:
    facts, environment = content["facts"], content["environment"]
    device = environment["gpu"] if str(facts.get("device", "")).startswith("cuda") else environment["processor"]
    commit = environment["commit"]
    # What is counted has no numbers of any type.
    parts = [*(str(facts[name]) for name in ("model", "dtype") if name in facts), str(device)]
    return ", ".join([*parts, f"commit {commit[:12]}"] if commit else parts)


def _facts(content: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        (name, value)
        for name, value in [*content["facts"].items(), *content["environment"].items()]
        if value is not None
    ]


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
