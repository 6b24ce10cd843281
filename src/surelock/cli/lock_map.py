"""`--lock-map`: which positions each step computed, as a picture."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from surelock.cli.files import check_writable
from surelock.errors import ParameterError
from surelock.output import StepUpdate
from surelock.results.whole_file import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES: Final = (".png", ".svg")
MASKED, ACTIVE, REFRESHED, LOCKED = range(4)

_COLOURS: Final = {MASKED: "#e8e6e1", ACTIVE: "#f0a03c", REFRESHED: "#7f9dc4", LOCKED: "#23466e"}
_LABELS: Final = {
    MASKED: "computed as [MASK]",
    ACTIVE: "computed as a token",
    REFRESHED: "locked, refreshed",
    LOCKED: "locked, not computed",
}
_INK: Final = "#2b2b2b"
_QUIET_INK: Final = "#7a7a7a"


class LockMapRecorder:
    """Keeps the state of every position at the start of every step, and draws it.

    The area that is not dark is the work done: its share of the picture is the active ratio.

    Raises:
        ParameterError: the suffix is not one of `SUFFIXES`, the path cannot be written, or matplotlib is missing.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in SUFFIXES:
            raise ParameterError(f"--lock-map {path} ends in {path.suffix!r}; it must end in {' or '.join(SUFFIXES)}")
        check_writable("--lock-map", path)
        if importlib.util.find_spec("matplotlib") is None:
            raise ParameterError("--lock-map needs matplotlib: pip install 'surelock[plots]'")
        self.path = path
        self._rows: defaultdict[int, list[bytes]] = defaultdict(list)
        self._num_prompt: dict[int, int] = {}

    def update(self, update: StepUpdate) -> None:
        """Keep the canvas as the step found it."""
        self._rows[update.index].append(states_before(update))
        self._num_prompt[update.index] = update.num_prompt

    def save(self) -> list[Path]:
        """Draw one picture per prompt: PATH for one, NAME-0, NAME-1, ... for several. Returns the paths written."""
        indices = sorted(self._rows)
        paths = [
            self.path if len(indices) == 1 else self.path.with_name(f"{self.path.stem}-{index}{self.path.suffix}")
            for index in indices
        ]
        from surelock.results.figures import image

        for index, path in zip(indices, paths, strict=True):
            figure = draw_lock_map(self._rows[index], self._num_prompt[index])
            # A link keeps pointing at the file it names.
            write_whole(path.resolve(), image(figure, path.suffix.removeprefix("."), dpi=160))
        return paths


def states_before(update: StepUpdate) -> bytes:
    """State of each position at the start of the step, one byte each: MASKED, ACTIVE, REFRESHED or LOCKED."""
    committed, locked_now = set(update.committed), set(update.locked_now)
    # A refresh computes all that are locked.
    num_active = len(update.locked) - sum(update.locked) + len(locked_now)
    frozen = REFRESHED if update.active_rows > num_active else LOCKED
    return bytes(
        frozen
        if locked and position not in locked_now
        else MASKED
        if token_id is None or position in committed
        else ACTIVE
        for position, (token_id, locked) in enumerate(zip(update.canvas_token_ids, update.locked, strict=True))
    )


def draw_lock_map(rows: Sequence[bytes], num_prompt: int) -> Figure:
    """Positions to the right, steps downwards; beside them the rows computed in each step.

    Args:
        rows: `states_before` of each step, all of the canvas's length.
        num_prompt: positions before the first generated one; 0 draws no border.
    """
    import numpy as np
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Patch

    states = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -1)
    num_steps, num_positions = states.shape
    ratio = float((states != LOCKED).mean())

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.02)
    figure = Figure(figsize=(9.6, 5.4), layout=layout, facecolor="white")
    canvas_axes, rows_axes = figure.subplots(1, 2, sharey=True, width_ratios=[6, 1])
    canvas_axes.imshow(
        states,
        cmap=ListedColormap([_COLOURS[state] for state in _LABELS]),
        vmin=MASKED,
        vmax=LOCKED,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, num_positions - 0.5, num_steps + 0.5, 0.5),
    )
    if 0 < num_prompt < num_positions:
        canvas_axes.axvline(num_prompt - 0.5, color="white", linewidth=2.4)
        canvas_axes.axvline(num_prompt - 0.5, color=_INK, linewidth=1.1, linestyle=(0, (4, 2)))
        _name_sides(canvas_axes, num_prompt, num_positions)
    canvas_axes.set_xlabel("canvas position")
    canvas_axes.set_ylabel("denoising step")

    edges = np.repeat(np.arange(num_steps + 1), 2)[1:-1] + 0.5
    left = np.zeros(2 * num_steps)
    for state in (REFRESHED, ACTIVE, MASKED):
        right = left + np.repeat((states == state).mean(axis=1), 2)
        rows_axes.fill_betweenx(edges, left, right, color=_COLOURS[state], linewidth=0)
        left = right
    rows_axes.set_xlim(0, 1)
    rows_axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    rows_axes.set_xlabel("share computed")

    for axes in (canvas_axes, rows_axes):
        axes.spines[:].set_visible(False)
        axes.tick_params(length=3, color=_QUIET_INK, labelcolor=_INK, labelsize=9)
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
    rows_axes.tick_params(axis="y", length=0, labelleft=False)
    _whole_numbers(canvas_axes)

    saved = f"locking spared {1 - ratio:.1%} of the rows" if ratio < 1 else "no position locked"
    figure.suptitle(
        f"active ratio {ratio:.3f}: {saved}", x=0.012, ha="left", fontsize=13, fontweight="bold", color=_INK
    )
    figure.legend(
        handles=[Patch(facecolor=_COLOURS[state], label=label) for state, label in _LABELS.items()],
        loc="outside lower left",
        ncols=4,
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
        handlelength=1,
        handleheight=1,
        columnspacing=1.6,
    )
    return figure


def _name_sides(axes: Axes, num_prompt: int, num_positions: int) -> None:
    border = num_prompt / num_positions
    for text, side, offset in (("prompt", "right", -6), ("generated", "left", 6)):
        axes.annotate(
            text,
            xy=(border, 1),
            xycoords="axes fraction",
            xytext=(offset, 4),
            textcoords="offset points",
            ha=side,
            va="bottom",
            fontsize=9,
            color=_QUIET_INK,
        )


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
