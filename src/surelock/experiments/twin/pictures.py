"""Four pictures of the twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.ticker import MaxNLocator

from surelock.eval.twin.free import BINS
from surelock.eval.twin.records import LOCK_CLASSES, Row
from surelock.experiments.style import DASHED, DOTTED, INK, MARKERS, QUIET, SERIES, axes_grid, interval, legend_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASS_NAMES: Final = {
    "prompt": "prompt",
    "0": "ghost: age 0",
    "1": "age 1",
    "2-3": "age 2 to 3",
    "4+": "age 4 or more",
}
# Steps after the lock that the picture by layer shows, if any lock got so old.
_SHOWN_DELAY: Final = 4
# The keys and values of layer 1 depend on token and position alone: what is left there is rounding.
_SMALLEST_KL: Final = 1e-9


def divergence_picture(steps: Sequence[Row]) -> Figure:
    """Divergence and flips of masked rows in each step."""
    figure, ((left, right),) = axes_grid(1, 2, height=3.9)
    for index, (rule, rows) in enumerate(_by(steps, "rule").items()):
        colour, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
        seen = [row for row in rows if row["kl_mean"]]
        every = max(1, len(seen) // 8)
        x = [row["step"] for row in seen]
        left.plot(
            x, [row["kl_mean"] for row in seen], color=colour, marker=marker, markevery=every, markersize=4, label=rule
        )
        left.plot(x, [max(row["kl_p95"], 1e-12) for row in seen], color=colour, linewidth=1, linestyle=DOTTED)
        # Single steps have few rows: flips up to a step over rows up to it.
        rate = np.cumsum([row["flips"] for row in rows]) / np.cumsum([row["masked_rows"] for row in rows])
        right.plot(
            [row["step"] for row in rows], 100 * rate, color=colour, marker=marker, markevery=every, markersize=4
        )
    left.plot([], [], color=INK, linewidth=1, linestyle=DOTTED, label="95th percentile")
    if left.lines and any(row["kl_mean"] for row in steps):
        left.set_yscale("log")
        highest = max(row["kl_p95"] or 0 for row in steps)
        left.set_ylim(bottom=max(1e-9, min(row["kl_mean"] for row in steps if row["kl_mean"])), top=3 * highest or None)
    left.set_title("divergence from the run without locks", loc="left")
    left.set_xlabel("denoising step")
    left.set_ylabel("KL of masked rows, nats (mean)")
    right.set_title("rows that propose another token", loc="left")
    right.set_xlabel("denoising step")
    right.set_ylabel("% of masked rows up to this step")
    right.set_ylim(bottom=0)
    legend_below(figure, left, columns=4)
    return figure


def groups_picture(groups: Sequence[Row]) -> Figure:
    """What each group of locks does on its own."""
    figure, ((ages, layers),) = axes_grid(1, 2, height=3.9)
    names = [name for name in LOCK_CLASSES if any(row["axis"] == "age" and row["group"] == name for row in groups)]
    for index, (rule, rows) in enumerate(_by(groups, "rule").items()):
        style: dict[str, Any] = {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}
        of_ages = [row for row in rows if row["axis"] == "age" and row["kl_per_lock"] > 0]
        # A little apart, so that equal values of two rules are both seen.
        places = [names.index(row["group"]) + 0.2 * (index - 1) for row in of_ages]
        ages.plot([row["kl_per_lock"] for row in of_ages], places, linestyle="", markersize=7, **style)
        for row, place in zip(of_ages, places, strict=True):
            interval(ages, row["kl_per_lock_low"], row["kl_per_lock_high"], place, style["color"])
        of_layers = [row for row in rows if row["axis"] == "layer" and row["kl_mean"] > _SMALLEST_KL]
        x, y = [int(row["group"]) for row in of_layers], [row["kl_mean"] for row in of_layers]
        layers.plot(x, y, markersize=4, label=rule, **style)
    ages.set_yticks(range(len(names)), [CLASS_NAMES[name] for name in names])
    ages.set_ylim(len(names) - 0.5, -0.5)
    ages.set_title("only locks of one age frozen", loc="left")
    ages.set_xlabel("KL of masked rows per lock, nats")
    layers.set_title("locks frozen in one layer only", loc="left")
    layers.set_xlabel("layer")
    layers.set_ylabel("KL of masked rows, nats (mean)")
    layers.xaxis.set_major_locator(MaxNLocator(integer=True))
    # A logarithmic axis needs something to show.
    if any(row["axis"] == "age" and row["kl_per_lock"] > 0 for row in groups):
        ages.set_xscale("log")
    if any(row["axis"] == "layer" and row["kl_mean"] > _SMALLEST_KL for row in groups):
        layers.set_yscale("log")
    legend_below(figure, layers, columns=6)
    return figure


def drift_picture(changes: Sequence[Row], drifts: Sequence[Row]) -> Figure:
    """How values change by age without locks, and how far frozen ones are from fresh ones."""
    rules = _by([row for row in drifts if row["part"] == "value"], "rule")
    rules = {rule: rows for rule, rows in rules.items() if rows}
    figure, grid = axes_grid(1 + len(rules), 2, height=3.2 * (1 + len(rules)))
    _draw_changes(grid[0][0], [row for row in changes if row["part"] == "value"])
    _draw_changes_by_layer(grid[0][1], [row for row in changes if row["part"] == "value"])
    for (by_delay, by_layer), (rule, rows) in zip(grid[1:], rules.items(), strict=True):
        delays = sorted({row["steps_since"] for row in rows})
        shown = _SHOWN_DELAY if _SHOWN_DELAY in delays else delays[0]
        for lock_class, of_class in _by(rows, "lock_class").items():
            place = LOCK_CLASSES.index(lock_class)
            style: dict[str, Any] = {
                "color": SERIES[place], "marker": MARKERS[place], "markersize": 4, "label": CLASS_NAMES[lock_class],
            }  # fmt: skip
            over = _by(of_class, "steps_since")
            by_delay.plot(
                list(over), [float(np.mean([row["median"] for row in each])) for each in over.values()], **style
            )
            at = [row for row in of_class if row["steps_since"] == shown]
            by_layer.plot([row["layer"] for row in at], [row["median"] for row in at], **style)
        by_delay.set_xscale("log", base=2)
        by_delay.xaxis.set_major_formatter("{x:g}")
        by_delay.set_title(f"{rule}: frozen against fresh values", loc="left")
        by_delay.set_xlabel("steps since the lock")
        by_delay.set_ylabel("relative change, mean of layers")
        by_layer.set_title(f"{rule}: {shown} steps after the lock", loc="left")
        by_layer.set_xlabel("layer")
        by_layer.set_ylabel("relative change, median")
        by_layer.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (by_delay, by_layer):
            axes.set_ylim(bottom=0)
    legend_below(figure, [axes for row in grid for axes in row], columns=4)
    return figure


def spread_picture(flips: Sequence[Row], growth: Sequence[Row], spread: Sequence[Row]) -> Figure:
    """Where the guilty locks are, and how a difference spreads in runs that go free."""
    figure, ((guilty, later, farther),) = axes_grid(1, 3, height=3.9, width=10.4)
    rules = list(dict.fromkeys(row["rule"] for row in (*flips, *growth)))
    width = 0.8 / max(len(rules), 1)
    longest = max(
        (row[start] for rows, start in ((growth, "steps_since"), (spread, "distance")) for row in rows), default=0
    )
    reached = max([longest, *(abs(row["guilty_distance"]) for row in flips if row["guilty"])])
    bins = [start for start in BINS if start <= reached]
    starts = [start for start in bins if start] or [1]
    for index, rule in enumerate(rules):
        colour, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
        distances = [abs(row["guilty_distance"]) for row in flips if row["rule"] == rule and row["guilty"]]
        if distances:
            counts, _ = np.histogram(distances, bins=[*starts, np.inf])
            places = np.arange(len(starts)) + (index - (len(rules) - 1) / 2) * width
            guilty.bar(places, 100 * counts / counts.sum(), 0.9 * width, color=colour)
        for axes, rows, start in ((later, growth, "steps_since"), (farther, spread, "distance")):
            for run, line in (("locked", "-"), ("control", DASHED)):
                seen = [row for row in rows if row["rule"] == rule and row["run"] == run]
                axes.plot(
                    [BINS.index(row[start]) for row in seen], [100 * row["share"] for row in seen], color=colour,
                    linestyle=line, marker=marker if run == "locked" else None, markersize=4,
                    label=rule if run == "locked" else None,
                )  # fmt: skip
    later.plot([], [], color=INK, linestyle=DASHED, label="control: no locks after the first difference")
    guilty.set_xticks(range(len(starts)), _bin_names(starts), rotation=45)
    guilty.set_title("guilty lock of a flipped row", loc="left")
    guilty.set_xlabel("positions between them")
    guilty.set_ylabel("% of traced flips")
    for axes, label, title in (
        (later, "steps since the first difference", "free runs: by time"),
        (farther, "positions from the first difference", "free runs: by place"),
    ):
        axes.set_xticks(range(len(bins)), _bin_names(bins), rotation=45)
        axes.set_ylim(0, 100)
        axes.set_title(title, loc="left")
        axes.set_xlabel(label)
        axes.set_ylabel("% of tokens that differ from no lock")
    legend_below(figure, later, columns=5)
    return figure


def _draw_changes(axes: Axes, rows: Sequence[Row]) -> None:
    layers = sorted({row["layer"] for row in rows})
    shown = sorted({layers[0], layers[len(layers) // 2], layers[-1]}) if layers else []
    ages = sorted({row["age"] for row in rows})
    for place, layer in enumerate(shown):
        of_layer = {row["age"]: row["median"] for row in rows if row["layer"] == layer}
        axes.plot(
            [ages.index(age) for age in of_layer], list(of_layer.values()), color=QUIET,
            linestyle=("-", DASHED, DOTTED)[place], marker="o", markersize=3, label=f"layer {layer}, no locks",
        )  # fmt: skip
    axes.set_xticks(range(len(ages)), ["masked" if age == 0 else str(age) for age in ages])
    axes.set_title("no locks: values, one step to the next", loc="left")
    axes.set_xlabel("forwards with the real token")
    axes.set_ylabel("relative change, median")
    axes.set_ylim(bottom=0)


def _draw_changes_by_layer(axes: Axes, rows: Sequence[Row]) -> None:
    for place, age in enumerate((1, 2, 8)):
        of_age = [row for row in rows if row["age"] == age]
        axes.plot(
            [row["layer"] for row in of_age], [row["median"] for row in of_age], color=INK,
            linestyle=("-", DASHED, DOTTED)[place], marker="o", markersize=3, label=f"age {age}, no locks",
        )  # fmt: skip
    axes.set_title("no locks: by layer", loc="left")
    axes.set_xlabel("layer")
    axes.set_ylabel("relative change, median")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _bin_names(starts: Sequence[int]) -> list[str]:
    ends: list[int | None] = [*(after - 1 for after in starts[1:]), None]
    return [
        f"{start}+" if end is None else str(start) if start == end else f"{start}-{end}"
        for start, end in zip(starts, ends, strict=True)
    ]


def _by(rows: Sequence[Row], key: str) -> Mapping[Any, list[Row]]:
    """Rows grouped by the value of a column, in the order they come."""
    grouped: dict[Any, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row[key], []).append(row)
    return grouped
