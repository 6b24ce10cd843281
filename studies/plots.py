"""Pictures from rows: lines over a column and points with intervals, in colours colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from studies.study import Row, Rows, different, shown, where
from surelock.results.figures import GRID, INK, QUIET, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS: Final = "os^DvPX*"
DASHES: Final[Any] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
DIAMOND: Final[Any] = {"color": INK, "marker": "D", "markerfacecolor": "none", "label": "published"}
RATIOS: Final = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 2, 3, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class Panel:
    """Axes for each column of `y`, and for each value of `split`.

    Attributes:
        table: that the rows are of. `only`: rows with these values.
        x, y: columns; y may name several, with blanks between them. The interval of a column c is in c_low and c_high.
        by: columns whose values make a line each: the first gives the colour, a second the dash.
        base: the value of the first column of `by` that is drawn as a horizontal line instead.
        level: a horizontal line: a number, or a column. `published`: a column of printed values, drawn as diamonds.
        log: logarithmic axes: "x", "y" or "xy"; "2": x with a tick at every value. Ratios of Gen-PPL always are.
    """

    table: str
    x: str
    y: str
    by: str = ""
    split: str | None = None
    base: str | None = None
    level: float | str | None = None
    published: str | None = None
    log: str = ""
    only: Mapping[str, object] = field(default_factory=dict)
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Points:
    """A point with its interval for each row, under a name made of some columns.

    `without`: a value of the first of these whose rows are left out; for the rest see `Panel`.
    """

    table: str
    names: str
    value: str
    without: str | None = None
    level: float | None = None
    published: str | None = None
    log: str = ""
    only: Mapping[str, object] = field(default_factory=dict)


class Plot:
    """One picture of some panels, drawn from a study's rows."""

    def __init__(self, name: str, caption: str, *panels: Panel | Points) -> None:
        self.name, self.caption = name, caption
        self._panels = panels

    def draw(self, rows: Rows) -> Figure | None:
        """The figure; None where there is nothing to draw."""
        from matplotlib.figure import Figure

        each = [one for panel in self._panels for one in _axes_of(panel, rows)]
        if not each:
            return None
        num = min(3, len(each))
        num_lines = -(-len(each) // num)
        most = max(len(own) if isinstance(panel, Points) else 0 for panel, *_, own in each)
        size = (max(5.2, 3.6 * num), 0.7 + num_lines * max(3.0, 0.8 + 0.2 * most))
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        grid = figure.subplots(num_lines, num, squeeze=False).flatten().tolist()
        found: dict[str, Any] = {}
        for axes in grid[len(each) :]:
            axes.set_visible(False)
        for axes, (panel, y, title, own) in zip(grid, each, strict=False):
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(which="both", color=QUIET, labelcolor=INK, labelsize=8)
            axes.grid(color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.set_title(title, fontsize=9)
            _draw_points(axes, panel, own) if isinstance(panel, Points) else _draw_lines(axes, panel, y, own)
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                found.setdefault(str(label), handle)
        if found:
            place: Any = {"loc": "outside lower center", "ncols": 4, "frameon": False, "fontsize": 8}
            figure.legend(list(found.values()), list(found), **place)
        return figure


def _axes_of(panel: Panel | Points, rows: Rows) -> list[tuple[Panel | Points, str, str, list[Row]]]:
    """The column, title and rows of each pair of axes; none without rows."""
    own = where(rows.get(panel.table, []), **panel.only)
    if isinstance(panel, Points):
        own = [row for row in own if row[panel.names.split()[0]] != panel.without]
        return [(panel, panel.value, panel.table, own)] if own else []
    title = f"{panel.table} {' '.join(map(shown, panel.only.values()))}"
    return [
        (panel, y, title if value is None else f"{title} {panel.split} {shown(value)}", here)
        for y in panel.y.split()
        for value in (different(own, panel.split) if panel.split else [None])
        if (here := where(own, **{panel.split: value}) if panel.split else own)
    ]


def _draw_lines(axes: Axes, panel: Panel, y: str, rows: Sequence[Row]) -> None:
    names, is_log = panel.by.split(), "y" in panel.log or y.endswith("ppl_ratio")
    values = [different(rows, name) for name in names]
    level = rows[0].get(panel.level) if isinstance(panel.level, str) else panel.level
    if level is not None:
        label = panel.level.replace("_", " ") if isinstance(panel.level, str) else "_"
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=DASHES[2], label=label)
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        own = [row for row in where(rows, **dict(zip(names, key, strict=True))) if None not in (row[panel.x], row[y])]
        own = sorted((row for row in own if not is_log or row[y] > 0), key=lambda row: row[panel.x])
        label = ", ".join(map(shown, key))
        if own and key and key[0] == panel.base:
            axes.axhline(own[0][y], color=INK, linewidth=0.9, label=label)
        elif own:
            place = values[0].index(key[0]) if key else 0
            dash = DASHES[(values[1].index(key[1]) if len(key) > 1 else 0) % len(DASHES)] if panel.joined else "none"
            x, colour = [row[panel.x] for row in own], SERIES[place % len(SERIES)]
            style: Any = {"color": colour, "markersize": 4, "linestyle": dash, "label": label}
            marker = MARKERS[place % len(MARKERS)] if len(own) <= 40 else None
            axes.plot(x, [row[y] for row in own], marker=marker, **style)
            low, high = ([row.get(f"{y}_{end}") for row in own] for end in ("low", "high"))
            if panel.joined and None not in (*low, *high):
                axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)  # type: ignore[arg-type]
        for row in own:
            if panel.published and row[panel.published] is not None:
                axes.plot(row[panel.x], row[panel.published], **DIAMOND)
    axes.set_xlabel(panel.x.replace("_", " "), fontsize=9)
    axes.set_ylabel(y.replace("_", " "), fontsize=9)
    if is_log:
        _logarithmic(axes, "y", RATIOS if y.endswith("ppl_ratio") else ())
    elif all((row[y] or 0) >= 0 for row in rows) and y != "accuracy":
        axes.set_ylim(bottom=0)
    if "x" in panel.log or "2" in panel.log:
        _logarithmic(axes, "x", sorted({row[panel.x] for row in rows if row[panel.x]}) if "2" in panel.log else ())


def _draw_points(axes: Axes, panel: Points, rows: Sequence[Row]) -> None:
    names = panel.names.split()
    colours = different(rows, names[0])
    for place, row in enumerate(rows):
        colour, value = SERIES[colours.index(row[names[0]]) % len(SERIES)], row[panel.value]
        if value is None or (panel.log and value <= 0):
            continue
        axes.plot(value, place, color=colour, marker="o")
        low, high = (row.get(f"{panel.value}_{end}") for end in ("low", "high"))
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=colour, linewidth=1.5, alpha=0.7)
        if panel.published and row[panel.published] is not None:
            axes.plot(row[panel.published], place, **DIAMOND)
    texts = [", ".join(shown(row[name]) for name in names if row[name] is not None) for row in rows]
    axes.set_yticks(range(len(rows)), texts, fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    if panel.level is not None:
        axes.axvline(panel.level, color=INK, linewidth=0.9)
    axes.set_xlabel(panel.value.replace("_", " "), fontsize=9)
    if panel.log:
        _logarithmic(axes, "x", ())


def _logarithmic(axes: Axes, name: Literal["x", "y"], ticks: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axis = axes.xaxis if name == "x" else axes.yaxis
    if axis.get_data_interval()[0] > 0:
        axes.set(**{f"{name}scale": "log"})
        if ticks:
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
