"""SureLock's choice (Algorithm 1, line 6): everything that is not locked."""

from __future__ import annotations

from dataclasses import dataclass

from surelock.decoding.canvases import Canvases, Mask


@dataclass(frozen=True, slots=True)
class AllActive:
    """Every active position."""

    def select(self, canvas: Canvases) -> Mask:
        """See `RowSelector.select`."""
        return canvas.active
