"""How pictures look: one palette that colour-blind readers can tell apart, quiet axes, the legend outside the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from surelock.experiments.wording import threshold

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The Okabe-Ito palette without its yellow, which is too light for lines.
BLUE: Final = "#0072b2"
ORANGE: Final = "#e69f00"
GREEN: Final = "#009e73"
RED: Final = "#d55e00"
PINK: Final = "#cc79a7"
SKY: Final = "#56b4e9"
SERIES: Final = (BLUE, RED, GREEN, PINK, SKY, ORANGE)

# The report gives these another value on a dark page.
INK: Final = "#2b2b2b"
QUIET: Final = "#767676"
GRID: Final = "#e8e8e8"
PAGE: Final = "#ffffff"

MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_FINE_RATIOS: Final = (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8)
_COARSE_RATIOS: Final = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10, 20, 50, 100)
DASHED: Final = (0, (4, 2))
DOTTED: Final = (0, (1, 1.5))


def axes_grid(
    num_rows: int, num_columns: int, *, height: float, share_y: bool = False, width: float = 7.6
) -> tuple[Figure, list[list[Axes]]]:
    """A figure, and its axes row by row; height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAGE)
    grid: list[list[Axes]] = figure.subplots(num_rows, num_columns, squeeze=False, sharey=share_y).tolist()
    for axes in (each for row in grid for each in row):
        axes.set_facecolor(PAGE)
        axes.spines[["top", "right"]].set_visible(False)
        for spine in axes.spines.values():
            spine.set_color(QUIET)
        axes.tick_params(which="both", color=QUIET, labelcolor=INK, labelsize=9)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.title.set_color(INK)
        axes.title.set_fontsize(10)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, grid


def legend_below(figure: Figure, axes: Axes | list[Axes], *, columns: int = 3, **more: Any) -> None:
    """One legend for all axes, under them; a label that several axes have is shown once."""
    found: dict[str, Any] = {}
    for each in axes if isinstance(axes, list) else [axes]:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            found.setdefault(str(label), handle)
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=columns, frameon=False, fontsize=9,
        labelcolor=INK, **more,
    )  # fmt: skip


def ratio_axis(axes: Axes, name: Literal["x", "y"]) -> None:
    """An axis of ratios around 1, once all is drawn: twice and half are equally far from it, ticks plain numbers."""
    axes.set(**{f"{name}scale": "log"})
    axis = axes.yaxis if name == "y" else axes.xaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(FixedLocator(_FINE_RATIOS if high < 3 * low else _COARSE_RATIOS))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def interval(axes: Axes, low: float | None, high: float | None, place: float, colour: str) -> None:
    """A horizontal line from one end of an interval to the other, where it has ends."""
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=colour, linewidth=1.4, alpha=0.6, zorder=1.5)


def share_axis(axes: Axes, least: float = 0.1) -> None:
    """A vertical axis of shares, once all is drawn: so wide that a few answers do not look like many."""
    low, high = axes.get_ylim()
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


def few_ticks(axes: Axes) -> None:
    """A plain horizontal axis without crowded ticks, and a logarithmic vertical one with numbers on several."""
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    low, high = axes.yaxis.get_view_interval()
    if high < 30 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7), numticks=20))
        axes.yaxis.set_major_formatter(lambda value, _: threshold(value))
        axes.yaxis.set_minor_locator(NullLocator())


def epsilon_axis(axes: Axes, thresholds: Sequence[float]) -> None:
    """Thresholds to the right, each with its tick."""
    axes.set_xscale("log")
    axes.set_xticks(thresholds, [threshold(each) for each in thresholds])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("epsilon, nats")
