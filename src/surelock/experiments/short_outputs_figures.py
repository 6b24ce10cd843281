"""Pictures of the finding on short outputs: fronts of quality and cost, and the whole grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D

from surelock.experiments import style, wording
from surelock.experiments.pareto import front
from surelock.experiments.rules import NONE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from surelock.experiments.result import Row

# By min_visible_steps; the paper's 0 in red as everywhere.
_COLOURS = (style.RED, style.BLUE, style.GREEN, style.PINK)
_DIVERGING = "PuOr_r"


def fronts(tasks: Sequence[Row], texts: Sequence[Row]) -> Figure:
    """Quality against active rows, a panel for the tasks and one for each N_gen."""
    sizes = list(dict.fromkeys(row["num_generated"] for row in texts))
    num = len(sizes) + bool(tasks)
    figure, panels = style.axes_grid(-(-num // 2), min(num, 2), height=1 + 3.1 * -(-num // 2))
    axes = [each for row in panels for each in row]
    for spare in axes[num:]:
        spare.set_visible(False)
    if tasks:
        own = axes.pop(0)
        own.axhline(0, color=style.INK, linewidth=0.9)
        _scatter(own, tasks, lambda row: 100 * row["difference"], ("difference_low", "difference_high"), 100, 1)
        own.set_title("problems, fitted canvases")
        own.set_ylabel("right answers against no lock, points")
    for size, own in zip(sizes, axes, strict=False):
        own.axhline(1, color=style.INK, linewidth=0.9)
        here = [row for row in texts if row["num_generated"] == size]
        _scatter(own, here, lambda row: row["ppl_ratio"], ("ppl_ratio_low", "ppl_ratio_high"), 1, -1)
        own.axvline(here[0]["masked_floor"], color=style.QUIET, linestyle=style.DOTTED)
        own.set_title(f"text, N_gen = {size}")
        own.set_ylabel("Gen-PPL with locks / without")
        style.ratio_axis(own, "y")
    for own in (each for row in panels for each in row):
        own.set_xlabel("rows computed / all rows")
    rows = [*tasks, *texts]
    figure.legend(
        handles=_handles(rows), loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=style.INK
    )
    return figure


def _scatter(
    axes: Axes, rows: Sequence[Row], value: Callable[[Row], float], ends: tuple[str, str], scale: float, sign: int
) -> None:
    """sign: 1 where more is better, -1 where less is."""
    shown = [row for row in rows if row["min_visible"] is not None]
    thresholds = sorted({row["threshold"] for row in shown})
    # Shares of other problems cannot be compared.
    num = max(row.get("num_problems", 0) for row in shown)
    alike = [row for row in shown if row.get("num_problems", 0) == num]
    best = [alike[index] for index in front([(row["active_ratio"], sign * value(row)) for row in alike])]
    axes.plot(
        [row["active_ratio"] for row in best], [value(row) for row in best], color=style.QUIET, linewidth=1.2, zorder=1
    )
    for row in rows:
        if row["rule"] == NONE:
            continue
        point, look = (row["active_ratio"], value(row)), _look(row, thresholds)
        if row["percentile"] is None:
            axes.vlines(
                point[0], scale * row[ends[0]], scale * row[ends[1]], color=look["color"], alpha=0.35, linewidth=1
            )
        axes.plot(*point, linestyle="none", **look)


def _look(row: Row, thresholds: Sequence[float]) -> dict[str, Any]:
    if row["min_visible"] is None:
        return {"marker": "*", "markersize": 12, "color": style.ORANGE, "markeredgecolor": style.INK}
    colour = _COLOURS[min(row["min_visible"], len(_COLOURS) - 1)]
    marker = style.MARKERS[thresholds.index(row["threshold"]) % len(style.MARKERS)]
    face = colour if row["percentile"] is None else style.PAGE
    return {"marker": marker, "markersize": 6.5, "color": colour, "markerfacecolor": face}


def _handles(rows: Sequence[Row]) -> list[Line2D]:
    grid = [row for row in rows if row["min_visible"] is not None]
    thresholds = sorted({row["threshold"] for row in grid})
    found = [
        Line2D([], [], color=_COLOURS[min(visible, len(_COLOURS) - 1)], linewidth=4, label=f"visible {visible}")
        for visible in sorted({row["min_visible"] for row in grid})
    ]
    found += [
        Line2D(
            [], [], color=style.INK, linestyle="none", marker=style.MARKERS[index % len(style.MARKERS)],
            label=f"epsilon {wording.threshold(threshold)}",
        )
        for index, threshold in enumerate(thresholds)
    ]  # fmt: skip
    if any(row["percentile"] is not None for row in grid):
        found.append(
            Line2D(
                [], [], color=style.INK, linestyle="none", marker="o", markerfacecolor=style.PAGE, label="with the gate"
            )
        )
    found.append(Line2D([], [], linestyle="none", label="delayed cache", marker="*", markersize=12, color=style.ORANGE,
                        markeredgecolor=style.INK))  # fmt: skip
    found.append(Line2D([], [], color=style.QUIET, linestyle=style.DOTTED, label="masked floor"))
    return found


def grid(tasks: Sequence[Row], texts: Sequence[Row]) -> Figure:
    """A small map of epsilon and rule for each N_gen, and for the problems, at each number of tokens a step."""
    sizes: list[int | None] = list(dict.fromkeys(row["num_generated"] for row in texts))
    speeds = list(dict.fromkeys(row["tokens_per_step"] for row in [*texts, *tasks]))
    if tasks:
        sizes.append(None)
    rules = list(
        dict.fromkeys(
            (row["min_visible"], row["percentile"]) for row in [*texts, *tasks] if row["min_visible"] is not None
        )
    )
    height = 1 + len(sizes) * (0.55 + 0.235 * len(rules))
    figure, panels = style.axes_grid(len(sizes), len(speeds), height=height, width=max(5.2, 1.6 + 2.3 * len(speeds)))
    for size, line in zip(sizes, panels, strict=True):
        image = None
        for speed, axes in zip(speeds, line, strict=True):
            here = [
                row
                for row in (tasks if size is None else texts)
                if row["min_visible"] is not None
                and row["tokens_per_step"] == speed
                and (size is None or row["num_generated"] == size)
            ]
            axes.grid(visible=False)
            if not here:
                axes.set_visible(False)
                continue
            image = _map(axes, here, rules, is_tasks=size is None)
            what = "problems" if size is None else f"text, N_gen {size}"
            axes.set_title(f"{what}, {speed} a step", fontsize=9)
            if axes is not line[0]:
                axes.set_yticklabels([])
        if image is not None:
            bar = figure.colorbar(image, ax=line, shrink=0.9, pad=0.01)
            bar.set_label("points" if size is None else "log2 of ratio", fontsize=8, color=style.INK)
            bar.ax.tick_params(labelsize=8, labelcolor=style.INK)
    return figure


def _map(axes: Axes, rows: Sequence[Row], rules: Sequence[tuple[int, float | None]], *, is_tasks: bool) -> Any:
    import numpy as np

    thresholds = sorted({row["threshold"] for row in rows})
    badness = np.full((len(rules), len(thresholds)), np.nan)
    for row in rows:
        place = rules.index((row["min_visible"], row["percentile"])), thresholds.index(row["threshold"])
        badness[place] = 100 * row["difference"] if is_tasks else np.log2(row["ppl_ratio"])
        text = wording.points(row["difference"]) if is_tasks else f"{row['ppl_ratio']:.2f}"
        strong = abs(badness[place]) > (9 if is_tasks else 0.45)
        axes.text(
            place[1], place[0], text, ha="center", va="center", fontsize=7.5, color=style.PAGE if strong else style.INK
        )
    limit = 12 if is_tasks else 0.6
    image = axes.imshow(
        badness,
        cmap="PuOr" if is_tasks else _DIVERGING,
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
    )
    names = [f"visible {visible}{'' if gate is None else ', gate'}" for visible, gate in rules]
    axes.set_yticks(range(len(rules)), names, fontsize=8)
    axes.set_xticks(range(len(thresholds)), [wording.threshold(each) for each in thresholds], fontsize=8)
    axes.set_xlabel("epsilon, nats", fontsize=8)
    return image
