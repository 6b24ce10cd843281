"""One picture for each benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.ticker import LogLocator

from surelock.results.figures import BLUE, GRID, INK, ORANGE, QUIET, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from surelock.bench.result import BenchResult

_GREY: Final = "#c9c5bb"


def draw(result: BenchResult) -> Figure:
    """The picture of a result."""
    return _DRAWERS[result.benchmark](result)


def _draw_latency(result: BenchResult) -> Figure:
    figure, (times, gains) = _figure(result, 2, height=3.2 + 0.45 * len(result.rows))
    names = [f"{row['requests']} x {row['max_tokens']}" for row in result.rows]
    sides = [("without locks", "unlocked_ms_per_step", _GREY), ("with locks", "locked_ms_per_step", ORANGE)]
    if "baseline_ms_per_step" in result.rows[0]:
        sides.insert(0, (result.facts["baseline"]["name"], "baseline_ms_per_step", INK))
    _bars(times, names, [(label, [row[key] for row in result.rows], colour) for label, key, colour in sides], "{:.3g}")
    times.set_xlabel("milliseconds per step, mean")
    times.set_ylabel("requests x generated tokens")
    speed_ups = [("speed-up", [row["speed_up"] for row in result.rows], ORANGE)]
    if "bound" in result.rows[0]:
        speed_ups.append(("bound: locking free of cost", [row["bound"] for row in result.rows], BLUE))
    _bars(gains, names, speed_ups, "{:.2f}x")
    gains.axvline(1, color=INK, linewidth=0.8)
    gains.set_xlabel("time without locks / time with locks")
    gains.tick_params(labelleft=False)
    for axes in (times, gains):
        below = -0.85 / figure.get_figheight()
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, below), ncols=3)
    return figure


def _draw_steps(result: BenchResult) -> Figure:
    figure, (axes,) = _figure(result, 1, height=5.0)
    for colour, num in zip(SERIES * 8, sorted({row["requests"] for row in result.rows}), strict=False):
        rows = sorted((row for row in result.rows if row["requests"] == num), key=lambda row: int(row["rows"]))
        label = f"{num} request{'s' if num > 1 else ''}"
        x = [row["rows"] for row in rows]
        axes.plot(x, [row["ms"] for row in rows], marker="o", markersize=4, color=colour, label=label)
    ordered = sorted(result.rows, key=lambda row: int(row["rows"]))
    axes.plot(
        [row["rows"] for row in ordered], [row["floor_ms"] for row in ordered], color=QUIET, linestyle=(0, (4, 2)),
        label="floor: products, or reading the weights",
    )  # fmt: skip
    break_even = result.facts["break_even_rows"]
    axes.axvline(break_even, color=QUIET, linewidth=0.8)
    axes.annotate(
        f"break-even {break_even:.0f} rows", xy=(break_even, 1), xycoords=("data", "axes fraction"), xytext=(4, -10),
        textcoords="offset points", fontsize=8, color=QUIET,
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    _logarithmic(axes, "y")
    axes.set_xlabel("rows of a step, over all requests")
    axes.set_ylabel("milliseconds per step")
    axes.grid(color=GRID)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _draw_throughput(result: BenchResult) -> Figure:
    figure, (rates, latencies) = _figure(result, 2, height=3.6)
    rows = [row for row in result.rows if row["tokens_per_s"] is not None]
    names = [row["side"] for row in rows]
    _bars(rates, names, [("", [row["tokens_per_s"] for row in rows], ORANGE)], "{:,.0f}")
    for bar, side in zip(rates.patches, names, strict=True):
        bar.set_color({"static": _GREY, "continuous": ORANGE}.get(side, INK))
    rates.set_xlabel("generated tokens per second")
    for side, colour in (("static", _GREY), ("continuous", ORANGE)):
        seconds = np.sort(result.details[f"{side}_latencies_s"])
        share = np.arange(1, len(seconds) + 1) / len(seconds)
        latencies.step([0, *seconds], [0, *share], where="post", color=colour, linewidth=2, label=side)
    latencies.set_xlabel("seconds from arrival to the last token")
    latencies.set_ylabel("share of requests")
    latencies.set_ylim(0, 1.02)
    latencies.legend(frameon=False, fontsize=8)
    return figure


def _draw_ops(result: BenchResult) -> Figure:
    counts = sorted({row["rows"] for row in result.rows})
    ops = list(dict.fromkeys(row["op"] for row in result.rows))
    figure, (axes,) = _figure(result, 1, height=1.6 + len(ops) * (0.14 + 0.17 * len(counts)))
    times = {(row["op"], row["rows"]): row["times_floor"] for row in result.rows}
    series = [
        (f"{count:,} rows", [times[op, count] for op in ops], colour)
        for colour, count in zip(SERIES * 8, counts, strict=False)
    ]
    _bars(axes, ops, series, "{:.3g}x")
    _logarithmic(axes, "x")
    axes.axvline(1, color=QUIET, linewidth=0.8, zorder=0)
    axes.set_xlabel("time of the chosen implementation / floor of the machine")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _figure(result: BenchResult, num_axes: int, *, height: float) -> tuple[Figure, list[Axes]]:
    facts = result.facts
    is_scripted = facts.get("schedule") is not None and result.benchmark in ("latency", "throughput")
    locks = f"; locks follow a script ({facts['schedule']})" if is_scripted else ""
    title = f"{result.benchmark}: {facts['model']}, {facts['dtype']}, {facts['device']}{locks}"
    return new_figure(num_axes, (9.6, height), title)


def _bars(axes: Axes, names: list[str], series: list[tuple[str, list[float | None], str]], shown: str) -> None:
    """Groups of horizontal bars from the top down, each with its value beside it."""
    height = 0.8 / len(series)
    for index, (label, values, colour) in enumerate(series):
        places = np.arange(len(names)) + (index - (len(series) - 1) / 2) * height
        widths = [value or 0.0 for value in values]
        bars = axes.barh(places, widths, height=0.9 * height, color=colour, label=label)
        axes.bar_label(bars, ["" if v is None else shown.format(v) for v in values], padding=3, fontsize=8, color=INK)
    axes.set_yticks(np.arange(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.14)


def _logarithmic(axes: Axes, name: str) -> None:
    """A logarithmic scale with ticks at 1, 2 and 5."""
    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


_DRAWERS: Final[dict[str, Callable[[BenchResult], Figure]]] = {
    "latency": _draw_latency,
    "steps": _draw_steps,
    "throughput": _draw_throughput,
    "ops": _draw_ops,
}
