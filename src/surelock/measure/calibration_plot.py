"""The picture of a calibration: the risk of each threshold, and what each would lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surelock.measure.calibration import CalibrationReport
from surelock.results.figures import BLUE, GREEN, GRID, INK, ORANGE, QUIET, RED, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_calibration(report: CalibrationReport, title: str) -> Figure:
    """Two panels: risk with its bound, and the share of positions locked and rows computed."""
    figure, (risk, cost) = new_figure(2, (11, 4.8), title)
    for axes in (risk, cost):
        axes.grid(color=GRID)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("KL threshold, nats")
    _line(risk, report.table, "upper_bound", "upper bound on the risk, tested thresholds", RED, "s")
    _line(risk, report.table, "rate", "calibration prompts, mean over locks", ORANGE, "o")
    _line(risk, report.table, "held_out_rate", "held-out prompts, mean over locks", BLUE, "o")
    risk.axhline(report.alpha, color=INK, linewidth=1, linestyle=(0, (4, 2)), label=f"alpha {report.alpha:g}")
    highest = max([report.alpha, *(row[name] or 0.0 for row in report.table for name in ("rate", "upper_bound"))])
    risk.set_ylim(0, min(1.02, 1.15 * highest))
    risk.set_ylabel(f"risk: total variation above {report.delta:g}")
    _line(cost, report.table, "locked_share", "positions that lock", GREEN, "o")
    _line(cost, report.table, "active_ratio", "rows that would be computed", BLUE, "o")
    cost.set_ylabel("share, held-out prompts")
    for axes in (risk, cost):
        if report.kl_threshold is not None:
            axes.axvline(report.kl_threshold, color=QUIET, linewidth=1, label=f"chosen {report.kl_threshold:.3g}")
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def _line(axes: Axes, table: list[dict[str, Any]], name: str, label: str, colour: str, marker: str) -> None:
    there = [row for row in table if row[name] is not None]
    x = [row["kl_threshold"] for row in there]
    axes.plot(x, [row[name] for row in there], color=colour, marker=marker, markersize=3.5, label=label)
