"""The mechanism: a grid of cells, each of which is measured into rows; then tables and plots.

A study is a specification. Its `grid` gives cells; the usual ones come from a `Comparison`, which decodes one workload
with several decoders at each point and applies measures. Each finished cell goes into a journal, so that a run that is
cut off goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.progress import Journal, Progress

if TYPE_CHECKING:
    from studies.bench import Bench
    from studies.plots import Plot

Row = dict[str, Any]
# Rows by the name of their table.
Rows = dict[str, list[Row]]


class Settings(SimpleNamespace):
    """Settings by name: numbers, text, lengths, and tuples of one kind of these."""


@dataclass(frozen=True, slots=True)
class Table:
    """How a table is shown; its CSV file has every column.

    columns: those that the page shows, with blanks between them. "": all. None: the page leaves the table out.
    """

    name: str
    caption: str = ""
    columns: str | None = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of a grid.

    name: in words; no other cell of the study has it. measure: gives the rows. weight: how long it takes, relatively.
    """

    name: str
    measure: Callable[[], Rows]
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, and how it is measured.

    Attributes:
        number: as the paper numbers its experiments; "open" for the other questions.
        name: of its folder and files.
        title: one line.
        method: what is done, for the page; {name} stands for a setting.
        settings: by name. `quick`: in place of some of them, small ones that show what a result looks like.
        grid: the cells; it may call `bench.leave_out`.
        tables: shown in this order.
        plots: drawn from the rows.
        finish: tables that follow from all cells; given and returns rows by table.
        needs_model: whether a checkpoint is loaded.
    """

    number: str = "open"
    name: str
    title: str
    method: str
    settings: Mapping[str, Any]
    quick: Mapping[str, Any]
    grid: Callable[[Bench, Settings], Sequence[Cell]]
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...] = ()
    finish: Callable[[Bench, Settings, Rows], Rows] | None = None
    needs_model: bool = True

    @property
    def folder(self) -> str:
        """Of its files, below the folder of all results."""
        return f"{self.number}_{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a study found: rows by table, and all that a reader needs to judge them."""

    study: Study
    method: str
    facts: dict[str, Any]
    rows: Rows
    left_out: list[str]


def run_study(
    study: Study, bench: Bench, journal: Journal, *, changes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Measure every cell that the journal does not have.

    journal: of finished cells; the caller removes it once the result is written. changes: to settings.
    """
    values = {**study.settings, **(study.quick if bench.options.quick else {}), **(changes or {})}
    settings, progress = Settings(**values), progress or Progress()
    bench.left_out.clear()
    cells = study.grid(bench, settings)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names), f"{study.name}: two cells have one name among {names}"
    facts = bench.facts() | {name: written(value) for name, value in values.items()}
    known = journal.open(facts)
    progress.start(study.name, len(cells), sum(cell.weight for cell in cells))
    for cell in sorted(cells, key=lambda cell: cell.name not in known):
        is_new = cell.name not in known
        if is_new:
            progress.within(cell.name, 0.0, cell.weight)
            bench.show = lambda share, what, cell=cell: progress.within(f"{cell.name}: {what}", share, cell.weight)  # type: ignore[misc]
            known[cell.name] = journal.add(cell.name, cell.measure())
        progress.finished(cell.weight, is_new=is_new)
    rows: Rows = {table.name: [] for table in study.tables}
    for name in names:
        for table, of_cell in known[name].items():
            rows.setdefault(table, []).extend(of_cell)
    if study.finish is not None:
        rows |= study.finish(bench, settings, rows)
    method = study.method.format(**{name: shown(value) for name, value in values.items()})
    rows = {table.name: rows[table.name] for table in study.tables}
    return Result(study=study, method=method, facts=facts, rows=rows, left_out=list(bench.left_out))


def written(value: object) -> object:
    """A setting as JSON: tuples as lists, and what is no plain value as text."""
    if isinstance(value, tuple | list):
        return [written(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def shown(value: object) -> str:
    """A value in a cell or a sentence: three significant digits, a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, tuple | list):
        return ", ".join(shown(one) for one in value)
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.0f}" if abs(value) >= 1000 and abs(value) < 1e6 else f"{value:.3g}"
    # 5e-4, not 5e-04.
    return text.replace("e-0", "e-").replace("e+0", "e")


def average(values: Any) -> float | None:
    """Of an array or a list; None of nothing."""
    return float(np.mean(values)) if len(values) else None


def quantile(values: Any, share: float) -> float | None:
    """Of an array or a list; None of nothing."""
    return float(np.quantile(values, share)) if len(values) else None


def where(rows: Sequence[Row], /, **values: object) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def different(rows: Sequence[Row], name: str) -> list[Any]:
    """The values of a column, each once, in their order."""
    return list(dict.fromkeys(row[name] for row in rows))


def grouped(rows: Iterable[Row], *names: str) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """Rows by their values of some columns, in order of appearance."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(found.items())
