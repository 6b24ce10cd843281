"""What every experiment gives back: tables, pictures, and sentences about what was found."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
_ZERO: Final = re.compile(r"[+-]0(\.0+)?%?")
_ZERO_EXPONENT: Final = re.compile(r"[+-]?0(\.0+)?e[+-]?0+")
# Called with one line about what is being done.
Progress = Callable[[str], None]
# Called with what has been measured so far.
Keep = Callable[["Result"], None]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        name: in the CSV file.
        heading: on the page; None leaves the column to the CSV file.
        form: how a value is shown on the page, as in str.format.
    """

    name: str
    heading: str | None = None
    form: str = "{}"

    def shown(self, value: object) -> str:
        """A value as the page shows it; a dash for none."""
        if value is None:
            return "-"
        text = self.form.format(value)
        if _ZERO_EXPONENT.fullmatch(text):
            return "0"
        # 5e-4, not 5e-04; and nothing has no sign and no exponent.
        return text[1:] if _ZERO.fullmatch(text) else text.replace("e-0", "e-").replace("e+0", "e")


@dataclass(frozen=True, slots=True)
class Table:
    """Flat rows, all with the columns' keys.

    Attributes:
        name: of the CSV file.
        caption: what the page says above it.
        on_page: whether the page shows it; curves are for the CSV file only.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: list[Row]
    on_page: bool = True

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        for row in self.rows:
            assert list(row) == names, f"{self.name}: row {list(row)} is not of columns {names}"

    @property
    def shown_columns(self) -> list[Column]:
        """Those with a heading."""
        return [column for column in self.columns if column.heading is not None]


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure; it is drawn when it is written."""

    name: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One experiment.

    Attributes:
        number, name, title: of the experiment.
        method: what was done, in a few sentences.
        facts: model, device, settings: plain values.
        tables: the first is the main one.
        findings: sentences with their numbers filled in.
        left_out: a line for each setting that was asked for and not measured.
    """

    number: str
    name: str
    title: str
    method: str
    facts: dict[str, Any]
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    findings: list[str]
    left_out: list[str] = field(default_factory=list)


def no_progress(message: str) -> None:
    """Say nothing."""
