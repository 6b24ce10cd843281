"""Explained cases as one HTML page that needs nothing else: no script, no font, no request."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from surelock.measure.explain.case import Case, Damage, Position
from surelock.measure.explain.wording import (
    damage_line,
    guilty_heading,
    guilty_line,
    lock_line,
    summary,
    visible_break,
)

_LEGEND = (
    ("differs", "", "token differs from the run without locks"),
    ("differs first", "▼", "where the runs part"),
    ("differs damaged", "", "written because of frozen keys and values"),
    ("guilty", "3", "guilty lock, and of how many of these"),
    ("ghost", "", "ghost: locked before its token was ever an input"),
    ("given", "", "prompt"),
)


def page(cases: Sequence[Case]) -> str:
    """The page; every text of a model or a prompt in it is escaped."""
    style = files("surelock.measure.explain").joinpath("page.css").read_text()
    first = cases[0]
    body = "".join(_section(case, index) for index, case in enumerate(cases, start=1))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>What locking did: {escape(first.rule)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<h1>What locking did</h1>\n<p>{escape(first.model)}, rule {escape(first.rule)}. Each position is shown "
        "twice: above without locks, below with locks.</p>\n"
        f"{_legend()}{body}</body>\n</html>\n"
    )


def _legend() -> str:
    items = "".join(
        f'<li><span class="cell {kind}"><span class="mark">{mark}</span><span>one</span>'
        f'<span class="locked">two</span></span>{text}</li>'
        for kind, mark, text in _LEGEND
    )
    return f'<ul class="legend">{items}</ul>\n'


def _section(case: Case, index: int) -> str:
    num_guilty = guilty_counts(case)
    damaged = {damage.position for damage in case.damage if damage.instead_of is None}
    cells = "".join(
        _cell(case, index, place, position, num_guilty.get(place, 0), place in damaged)
        for place, position in enumerate(case.positions)
    )
    items = "".join(_item(case, index, damage) for damage in case.damage)
    more = case.num_damage - len(case.damage)
    rest = f'<p class="quiet">{more} more are not traced.</p>' if more > 0 else ""
    found = f"<ol class='damage'>{items}</ol>{rest}" if items else "<p>Nothing.</p>"
    return (
        f"<section>\n<h2>Prompt {case.number}</h2>\n<p>{escape(summary(case))}.</p>\n"
        f'<div class="canvas">{cells}</div>\n'
        f"<h3>What locks decided</h3>\n{found}\n</section>\n"
    )


def guilty_counts(case: Case) -> dict[int, int]:
    """How many damaged tokens each position is among the listed guilty locks of."""
    counts: dict[int, int] = {}
    for damage in case.damage:
        for guilty in damage.guilty:
            counts[guilty.position] = counts.get(guilty.position, 0) + 1
    return counts


def _cell(case: Case, index: int, place: int, position: Position, num_guilty: int, is_damaged: bool) -> str:
    is_first = place in case.first_positions
    kinds = {
        "given": position.given,
        "differs": position.differs,
        "first": is_first,
        "damaged": is_damaged,
        "guilty": num_guilty > 0,
        "ghost": position.is_ghost,
    }
    names = " ".join(["cell", *(name for name, holds in kinds.items() if holds)])
    mark = ("▼" if is_first else "") + (str(num_guilty) if num_guilty else "")
    when = (
        "prompt" if position.given else f"unmasked in step {position.unlocked_step}, with locks {position.locked_step}"
    )
    title = escape(f"position {place}: {when}; {lock_line(position)}", quote=True)
    return (
        f'<span class="{names}" id="{_anchor(index, place)}" title="{title}"><span class="mark">{mark}</span>'
        f'<span>{_token(position.unlocked)}</span><span class="locked">{_token(position.locked)}</span></span>'
    )


def _item(case: Case, index: int, damage: Damage) -> str:
    guilty = "".join(
        f'<li><a href="#{_anchor(index, each.position)}">{escape(guilty_line(case, damage, each))}</a></li>'
        for each in damage.guilty
    )
    where = _anchor(index, damage.position)
    return (
        f'<li><a href="#{where}">{escape(damage_line(case, damage))}</a><br>{escape(guilty_heading(damage))}'
        f"<ul>{guilty}</ul></li>"
    )


def _token(token: str) -> str:
    # An empty token would leave nothing to see or to point at.
    return escape(visible_break(token)) or "&#8203;"


def _anchor(index: int, place: int) -> str:
    return f"c{index}p{place}"
