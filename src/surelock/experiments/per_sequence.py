"""Means over the locks or tokens of many sequences in sentences, with how sure they are."""

from __future__ import annotations

from surelock.eval.twin.certainty import MIN_SEQUENCES, difference_of, mean_of
from surelock.eval.twin.records import Sums


def mean(sums: Sums) -> str:
    """A mean with its 95 % interval, where there is one."""
    interval = mean_of(sums)
    value = f"{sums.amount / sums.number:.2g}"
    return value if interval is None else f"{value} (95 % {interval.low:.2g} to {interval.high:.2g})"


def compared(one: Sums, other: Sums) -> str:
    """How the mean of one stands to that of the other."""
    difference = difference_of(one, other)
    if difference is None:
        return f"fewer than {MIN_SEQUENCES} sequences do not tell them apart"
    if difference.low <= 0 <= difference.high:
        return "not surely different"
    reference = other.amount / other.number
    if reference <= 0:
        return "more" if difference.value > 0 else "less"
    return f"{one.amount / one.number / reference:.2g} times as much"
