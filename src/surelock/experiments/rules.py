"""The locking rules that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from surelock.params import LockParams

DEFAULT: Final = "default rule"
PAPER: Final = "paper rule"
NONE: Final = "no lock"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule by a name that tables and legends use.

    Attributes:
        threshold: epsilon; None where nothing locks.
        percentile: m of the confidence gate; None for no gate.
    """

    name: str
    lock: LockParams | None

    def __str__(self) -> str:
        return self.name if self.threshold is None else f"{self.name}, epsilon {self.threshold:g}"

    @property
    def threshold(self) -> float | None:
        """Epsilon."""
        return None if self.lock is None else self.lock.kl_threshold

    @property
    def percentile(self) -> float | None:
        """m."""
        return None if self.lock is None else self.lock.confidence_percentile


NO_LOCK: Final = Rule(NONE, None)


def default_rule(threshold: float) -> Rule:
    """Visible for a step, no gate."""
    return Rule(DEFAULT, LockParams(kl_threshold=threshold))


def paper_rule(threshold: float, percentile: float = 20) -> Rule:
    """The paper's literal rule: gate at m, and a position may lock as it is unmasked."""
    return Rule(PAPER, LockParams(kl_threshold=threshold, confidence_percentile=percentile, min_visible_steps=0))


def both(threshold: float) -> tuple[Rule, Rule]:
    """The default rule and the paper's at m = 20."""
    return default_rule(threshold), paper_rule(threshold)
