"""The learning rate over a leg: a rise, a level stretch, and a long straight fall to zero."""

from __future__ import annotations

from typing import Final

WARM_UP: Final = 0.02
# What is learnt late is learnt while the rate falls, so the fall is the larger part (measured: README, "What we saw").
LEVEL_UNTIL: Final = 0.3


def rate(progress: float) -> float:
    """Share of the top rate at `progress` (0 to 1) of a leg."""
    if progress < WARM_UP:
        return progress / WARM_UP
    if progress < LEVEL_UNTIL:
        return 1.0
    return max(0.0, (1 - progress) / (1 - LEVEL_UNTIL))
