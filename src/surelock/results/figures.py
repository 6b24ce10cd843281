"""Pictures of results: one palette, one look, and the bytes of a file."""

from __future__ import annotations

import importlib.util
import io
from typing import TYPE_CHECKING, Final

from surelock.errors import ParameterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow: it is too light for lines.
SERIES: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
BLUE, RED, GREEN, _, _, ORANGE = SERIES
INK, QUIET, GRID = "#2b2b2b", "#767676", "#e8e8e8"


def check_plots() -> None:
    """Raise ParameterError if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ParameterError("plots are drawn with matplotlib: pip install 'surelock[plots]', or add --no-plots")


def new_figure(num_axes: int, size: tuple[float, float], title: str) -> tuple[Figure, list[Axes]]:
    """A titled figure of `size` inches with axes in a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.012, ha="left", fontsize=11, fontweight="bold", color=INK)
    each: list[Axes] = figure.subplots(1, num_axes, squeeze=False)[0].tolist()
    for axes in each:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(color=QUIET, labelcolor=INK, labelsize=9)
        axes.set_axisbelow(True)
    return figure, each


def image(figure: Figure, suffix: str, *, dpi: int = 130) -> bytes:
    """The figure as "png" or "svg"; the same figure gives the same bytes."""
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "surelock", "svg.fonttype": "none"}):
        figure.savefig(content, format=suffix, dpi=dpi, metadata={"Date": None} if suffix == "svg" else {})
    return content.getvalue()
