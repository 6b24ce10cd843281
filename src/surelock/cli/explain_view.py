"""Explained cases on a terminal: the two texts under each other, position by position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from surelock.cli.terminal import visible
from surelock.measure.explain import Case
from surelock.measure.explain.page import guilty_counts
from surelock.measure.explain.wording import damage_line, guilty_heading, guilty_line, summary, visible_break

_LABELS = ("", "no locks ", "locks    ")
_LEGEND = "▼ where the runs part; * written because of locks; a number: guilty of so many; ~ ghost"
# What a pipe gets in a line.
PIPE_WIDTH = 120


def case_lines(case: Case, width: int) -> Iterator[Text]:
    """Lines of at most `width` cells, except those of a token that is longer."""
    yield Text(f"prompt {case.number}: {summary(case)}", style="bold")
    yield Text(_LEGEND, style="dim")
    for columns in _wrapped(_columns(case), width - len(_LABELS[1])):
        for row, label in enumerate(_LABELS):
            line = Text(label.ljust(len(_LABELS[1])), style="dim")
            for column in columns:
                line.append_text(column[row])
            line.rstrip()
            yield line
    for damage in case.damage:
        yield Text("")
        yield Text(visible(damage_line(case, damage)))
        yield Text(f"  {guilty_heading(damage)}", style="dim")
        for guilty in damage.guilty:
            yield Text(f"  - {visible(guilty_line(case, damage, guilty))}")
    if case.num_damage > len(case.damage):
        yield Text(f"{case.num_damage - len(case.damage)} more are not traced", style="dim")


def _columns(case: Case) -> Iterator[tuple[Text, Text, Text]]:
    """For each position its mark, its token without and with locks, all of one width."""
    guilty, damaged = guilty_counts(case), {damage.position for damage in case.damage if damage.instead_of is None}
    for place, position in enumerate(case.positions):
        mark = ("▼" if place in case.first_positions else "") + ("*" if place in damaged else "")
        mark += (str(guilty[place]) if place in guilty else "") + ("~" if position.is_ghost else "")
        tokens = [visible(visible_break(token)) for token in (position.unlocked, position.locked)]
        width = max(1, *(cell_len(text) for text in (mark, *tokens)))
        style = "dim" if position.given else "red" if position.differs else ""
        styles = ("yellow", "dim" if position.given else "", f"{style} bold" if place in guilty else style)
        yield tuple(  # type: ignore[misc]
            Text(text + " " * (width - cell_len(text)), style=each)
            for text, each in zip((mark, *tokens), styles, strict=True)
        )


def _wrapped(columns: Iterator[tuple[Text, Text, Text]], width: int) -> Iterator[Sequence[tuple[Text, Text, Text]]]:
    line: list[tuple[Text, Text, Text]] = []
    filled = 0
    for column in columns:
        if line and filled + column[0].cell_len > width:
            yield line
            line, filled = [], 0
        line.append(column)
        filled += column[0].cell_len
    if line:
        yield line
