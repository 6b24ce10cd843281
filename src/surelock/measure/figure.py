"""Pictures of an evaluation, as bytes."""

from __future__ import annotations

import importlib.util
import io
from typing import TYPE_CHECKING

from surelock.errors import ParameterError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_plots() -> None:
    """Raises ParameterError if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ParameterError("plots are drawn with matplotlib: pip install 'surelock[plots]', or add --no-plots")


def image(figure: Figure, suffix: str, *, dpi: int = 130) -> bytes:
    """The figure as "png" or "svg"; the same figure gives the same bytes."""
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "surelock", "svg.fonttype": "none"}):
        figure.savefig(content, format=suffix, dpi=dpi, metadata={"Date": None} if suffix == "svg" else {})
    return content.getvalue()
