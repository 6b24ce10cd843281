"""Numbers in README.md and docs/findings are in the result files that the page links.

A number counts as measured if it has a decimal point, an exponent or a percent sign. It is right if a value of a file
that its paragraph or the page links rounds to it, as it is, in percent, or without its sign. A number with its
interval, such as `0.11 (0.06 to 0.16)`, is right only if one row of a table or one sentence of a result has all three.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "findings").glob("*.md"))]

NUMBER = r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?"
SHARE = r"(?: ?%| points)"
INTERVAL = re.compile(
    rf"(?<![\w.])({NUMBER})({SHARE})?(?: nats| of[\w ]*| times)?,? \(?(?:95 % )?({NUMBER}) to ({NUMBER})"
)
SINGLE = re.compile(rf"(?<![\w.,/@-])({NUMBER})({SHARE})?(?![\w]*[/@])")
LINK = re.compile(r"\]\(([^)\s#]+)")
# Names, addresses, commands, thresholds by name.
NO_PROSE = re.compile(
    r"^```.*?^```$|`[^`\n]*`|!?\[[^\]]*\]\([^)]*\)|\w+://\S+|(?<=arXiv )[\d.]+|Python 3[^,;]*", re.DOTALL | re.MULTILINE
)
# More rows than that hold any number: those of a curve.
MAX_ROWS = 300

Row = tuple[float, ...]


@dataclass(frozen=True)
class Told:
    """A number as a page writes it; a share may be in percent or points."""

    text: str
    is_share: bool = False

    @property
    def is_measured(self) -> bool:
        return self.is_share or "." in self.text or "e" in self.text

    def is_of(self, value: float) -> bool:
        """Whether a value rounds to it."""
        mantissa, _, exponent = self.text.replace(",", "").partition("e")
        digits = len(mantissa.partition(".")[2])
        unit = 10.0 ** (int(exponent or 0) - digits)
        told, scales = abs(float(self.text.replace(",", ""))), (1, 100) if self.is_share else (1,)
        # Half a unit, and what a decimal fraction differs from a binary one.
        return any(abs(abs(value) * scale - told) <= unit * 0.5000001 for scale in scales)


def rows_of(value: object) -> Iterator[Row]:
    """The numbers of every object, list and sentence of a JSON value, each as one row."""
    if isinstance(value, str):
        yield tuple(float(text.replace(",", "")) for text in re.findall(NUMBER, value) if len(text) < 30)
    elif isinstance(value, dict | list):
        parts = list(value.values()) if isinstance(value, dict) else value
        yield tuple(float(one) for one in parts if isinstance(one, int | float))
        for each in parts:
            yield from rows_of(each)


@cache
def rows_in(path: Path) -> tuple[Row, ...]:
    """Of a result file; none of a long table."""
    if path.suffix == ".json":
        return tuple(row for row in rows_of(json.loads(path.read_text())) if row)
    lines = path.read_text().splitlines()
    fields = csv.reader(lines if len(lines) <= MAX_ROWS else [])
    return tuple(next(rows_of(" ".join(row))) for row in fields)


def linked_files(page: Path, text: str, hops: int) -> set[Path]:
    """Result files that a text of a page links, or the pages that it links; all of a folder, and beside a page."""
    found: set[Path] = set()
    for target in LINK.findall(text):
        path = (page.parent / target).resolve()
        if path.is_relative_to(RESULTS) and path.exists():
            home = path if path.is_dir() else path.parent
            is_alone = path.suffix == ".json"
            found |= {path} if is_alone else {file for file in home.rglob("*") if file.suffix in (".json", ".csv")}
        elif hops and path.suffix == ".md" and path.is_relative_to(ROOT / "docs"):
            found |= linked_files(path, path.read_text(), hops - 1)
    return found


def wrong_numbers(page: Path, text: str | None = None) -> list[str]:
    """What of a page no row has: paragraph by paragraph, and row by row of its tables."""
    text = page.read_text() if text is None else text
    everywhere, wrong = linked_files(page, text, 0), []
    for block in re.split(r"\n\n|\n(?=[|-] ?)", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)):
        files = everywhere | linked_files(page, block, 1)
        wrong += _wrong(block, [row for file in sorted(files) for row in rows_in(file)])
    return wrong


def _wrong(text: str, rows: list[Row]) -> list[str]:
    prose = re.sub(r"\s+", " ", NO_PROSE.sub(" ", text))
    # Nats a token are told as the ratio of perplexities.
    exponentials = (tuple(math.exp(value) for value in row) for row in rows if row and max(map(abs, row)) < 5)
    known, wrong = [*rows, *exponentials], []
    for match in INTERVAL.finditer(prose):
        value, share, low, high = match.groups()
        told = [Told(low, True), Told(high, True)]
        # "at T = 1 (-1.1 to +2.5)" and "of 90.9 (-1.3 to +0.2)" say of what the interval is, not its middle.
        is_middle = Told(value, bool(share)).is_measured and not prose[: match.start()].endswith("of ")
        told += [Told(value, True)] if is_middle else []
        if any("." in one.text for one in told) and not any(all(has(row, one) for one in told) for row in known):
            wrong.append(f"{value}{share or ''} ({low} to {high})")
    values = {abs(value) for row in rows for value in row}
    rest = INTERVAL.sub(" ", prose)
    for match in SINGLE.finditer(rest):
        # "90.1 against 90.4 %", "0.6 in blocks of 32, and 0.9 points".
        one = Told(match[1], bool(match[2] or ("." in match[1] and re.search(SHARE, rest[match.end() :][:40]))))
        if one.is_measured and not any(one.is_of(value) for value in values):
            wrong.append(match[0].strip())
    return wrong


def has(row: Row, told: Told) -> bool:
    return any(told.is_of(value) for value in row)


# Not in a table: what an earlier model gave, at the commit that the page names; the paper's own sweep; what two
# decoders differ by without locks, which follows from the runs themselves (runs.jsonl.gz).
ELSEWHERE = {
    "docs/findings/README.md": ["1.09"],
    "docs/findings/noise_floor.md": ["5e-2"],
    "docs/findings/default_rule.md": ["3 (0.006 to 0.028)", "0.932"],
}
each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


@each_page
def test_numbers_are_in_the_results_that_the_page_links(page: Path) -> None:
    wrong = [told for told in wrong_numbers(page) if told not in ELSEWHERE.get(str(page.relative_to(ROOT)), [])]
    assert not wrong, (
        f"{page.name}: no result it links has {', '.join(wrong)}; correct them, or link the result beside them"
    )


def altered(text: str, match: re.Match[str]) -> str:
    """The text with another last digit in a number."""
    place = match.start(1) + len(match[1].partition("e")[0]) - 1
    return text[:place] + str((int(text[place]) + 5) % 10) + text[place + 1 :]


@pytest.mark.parametrize("name", ["kv_drift.md", "near_synonyms.md", "temperature.md"])
def test_another_number_is_noticed(name: str) -> None:
    page = ROOT / "docs" / "findings" / name
    text = page.read_text()
    intervals = [match for match in INTERVAL.finditer(text) if "." in match[1]][:4]
    noticed = [bool(wrong_numbers(page, altered(text, match))) for match in intervals]
    assert len(noticed) == 4
    assert sum(noticed) >= 3


def test_numbers_as_pages_write_them() -> None:
    rows: list[Row] = [(0.1104, 0.0567, 0.1649), (-0.0049, -0.0133, 0.0021), (0.4987, 1234.5), (0.011, -0.036, 0.057)]
    right = [
        "0.110 (0.057 to 0.165)",
        "-0.5 points (-1.3 to +0.2)",
        "49.9 % of them",
        "1,234.5 s",
        "2 of 3",
        "epsilon `0.7`",
    ]
    right += ["Gen-PPL 1.011 times (0.965 to 1.059)", "[0.3](x.md)", "0.50", "90 positions and 0.5 or 11.0 points"]
    assert [text for text in right if _wrong(text, rows)] == []
    wrong = ["0.111 (0.057 to 0.165)", "0.110 (0.057 to 0.021)", "48.9 %", "0.4 s", "1e-3 nats"]
    assert [text for text in wrong if not _wrong(text, rows)] == []
