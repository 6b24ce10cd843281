"""What the pictures of several findings share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from surelock.experiments import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The ticks of a ratio axis are a tenth apart.
_NARROW: Final = 1.25


def ppl_ratio_axis(axes: Axes) -> None:
    """Gen-PPL ratios, once all is drawn: as ratios where they differ by much, plain where they do not."""
    low, high = axes.yaxis.get_view_interval()
    if high > _NARROW * low:
        style.ratio_axis(axes, "y")
