"""The picture of Theorem 1, one panel for each assumption and one for what the bounds are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from surelock.eval.theorem import LIPSCHITZ, TheoremReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by colour-blind readers.
_BLUE: Final = "#0072B2"
_SKY: Final = "#56B4E9"
_ORANGE: Final = "#E69F00"
_RED: Final = "#D55E00"
_GREEN: Final = "#009E73"
_INK: Final = "#2b2b2b"
_QUIET_INK: Final = "#7a7a7a"
_BELOW: Final = -0.2


def draw_theorem(report: TheoremReport, title: str) -> Figure:
    """Six panels: KL by age, A2 for each position, A2 averaged, A3, A4, the bounds."""
    figure = Figure(figsize=(13.5, 9.2), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=_INK)
    panels = figure.subplots(2, 3).ravel().tolist()
    drawers = (_by_age, _a2_positions, _a2_averaged, _a3, _a4, _bounds)
    for axes, draw in zip(panels, drawers, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(color=_QUIET_INK, labelcolor=_INK, labelsize=9)
        axes.grid(color="#eeeeee")
        axes.set_axisbelow(True)
        draw(axes, report)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, _BELOW), ncols=2)
    return figure


def _by_age(axes: Axes, report: TheoremReport) -> None:
    axes.set_title("KL by age since unmasking", fontsize=10, loc="left")
    ages = [row["age"] for row in report.by_age]
    styles = (
        ("kl_p99", "99 %", _RED),
        ("kl_p90", "90 %", _ORANGE),
        ("kl_p50", "median", _BLUE),
        ("kl_p10", "10 %", _SKY),
    )
    for name, label, colour in styles:
        values = [max(row[name], report.facts["floor"]) for row in report.by_age]
        axes.plot(ages, values, color=colour, marker="o", markersize=3, label=label)
    threshold = report.rules[0]["kl_threshold"]
    axes.axhline(threshold, color=_INK, linewidth=1, linestyle=(0, (4, 2)), label=f"threshold {threshold:.0e}")
    axes.set_yscale("log")
    axes.set_xlabel("forwards with the real token as input")
    axes.set_ylabel("KL(p_t || p_t-1), nats")


def _a2_positions(axes: Axes, report: TheoremReport) -> None:
    axes.set_title("A2 for each position", fontsize=10, loc="left")
    rows = report.rows
    _cumulative(axes, rows.rho, "fitted rho", _BLUE)
    _cumulative(axes, rows.rho_needed, "needed: largest D_s / D_s-1", _RED)
    axes.axvline(1, color=_INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.set_xscale("log")
    axes.set_xlabel("rho; A2 needs less than 1")
    axes.set_ylabel("share of locked positions")
    axes.set_ylim(0, 1.02)


def _a2_averaged(axes: Axes, report: TheoremReport) -> None:
    axes.set_title("A2 averaged over active positions", fontsize=10, loc="left")
    kl = np.array(report.averaged["kl"])
    steps = np.arange(2, len(kl) + 2)
    axes.plot(steps, kl, color=_BLUE, linewidth=1.2, label="mean KL")
    rho = report.averaged["rho"]
    if np.isfinite(rho) and len(kl):
        fitted = np.exp(np.log(kl).mean() + np.log(rho) * (steps - steps.mean()))
        axes.plot(steps, fitted, color=_ORANGE, linestyle=(0, (4, 2)), label=f"regression, rho {rho:.3f}")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlabel(f"step; {report.averaged['rising']:.0%} of the steps rise")
    axes.set_ylabel("mean KL(p_t || p_t-1), nats")


def _a3(axes: Axes, report: TheoremReport) -> None:
    axes.set_title("A3: the least L, by uncertainty at the lock", fontsize=10, loc="left")
    table = report.by_uncertainty
    x = [max(row["uncertainty_median"], 1e-9) for row in table]
    for name, label, colour, style in (
        ("lagged_l_p95", "against the step before, 95 %", _RED, "-"),
        ("lagged_l_median", "against the step before, median", _RED, ":"),
        ("unlagged_l_p95", "against the same step, 95 %", _BLUE, "-"),
        ("unlagged_l_median", "against the same step, median", _BLUE, ":"),
    ):
        axes.plot(x, [row[name] for row in table], color=colour, linestyle=style, marker="o", markersize=4, label=label)
    axes.plot(x, [row["sqrt_v_over_u"] for row in table], color=_INK, linestyle=(0, (4, 2)), label="sqrt(V / u)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("uncertainty 1 - max p, median of a bin")
    axes.set_ylabel("L = ||dz|| / sqrt(D)")


def _a4(axes: Axes, report: TheoremReport) -> None:
    axes.set_title("A4: the Lipschitz constant of log softmax", fontsize=10, loc="left")
    if len(report.ratios):
        axes.hist(report.ratios, bins=60, color=_BLUE)
    axes.axvline(LIPSCHITZ, color=_INK, linewidth=1, linestyle=(0, (4, 2)), label="sqrt 2")
    axes.set_yscale("log")
    axes.set_xlim(0, 1.5)
    axes.set_xlabel("largest change of a log probability / ||dz||")
    axes.set_ylabel("positions and steps (sample)")


def _bounds(axes: Axes, report: TheoremReport) -> None:
    axes.set_title("What the bounds are worth at the lock", fontsize=10, loc="left")
    rows, rule = report.rows, report.rules[0]
    finite = rows.where(np.isfinite(rows.kl))
    bound = rule["c_tail"] * np.sqrt(finite.kl)
    _cumulative(axes, bound, "theorem: bound on |d log p|, nats", _RED)
    _cumulative(axes, finite.log_gap, "actual |d log p|, nats", _ORANGE)
    _cumulative(axes, finite.tv_sum, "telescoped bound on total variation", _BLUE)
    _cumulative(axes, finite.tv, "actual total variation", _SKY)
    axes.axvline(report.facts["delta"], color=_INK, linewidth=1, linestyle=(0, (4, 2)), label="delta")
    axes.set_xscale("log")
    axes.set_xlabel("from the lock to the last step")
    axes.set_ylabel("share of locked positions")
    axes.set_ylim(0, 1.02)


def _cumulative(axes: Axes, values: Any, label: str, colour: str) -> None:
    ordered = np.sort(values[np.isfinite(values)])
    ordered = np.maximum(ordered, 1e-8)
    if len(ordered):
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        thin = slice(None, None, max(1, len(ordered) // 2000))
        axes.step(ordered[thin], share[thin], where="post", color=colour, label=label)
