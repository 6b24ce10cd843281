"""How sure a mean over the locks or tokens of many sequences is: those of one sequence depend on each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from surelock.eval.statistics import Interval, difference_of_means, weighted_mean
from surelock.eval.twin.records import Sums

# Fewer sequences make no interval.
MIN_SEQUENCES: Final = 5
_SEED: Final = 0


def mean_of(sums: Sums) -> Interval | None:
    """The mean with a 95 % bootstrap interval over sequences; None if there are too few."""
    if len(sums.numbers) < MIN_SEQUENCES:
        return None
    prompts = list(sums.numbers)
    return weighted_mean([sums.amounts[i] for i in prompts], [sums.numbers[i] for i in prompts], seed=_SEED)


def difference_of(one: Sums, other: Sums) -> Interval | None:
    """The mean of one less that of the other, over the sequences of either; None if one has too few."""
    if min(len(one.numbers), len(other.numbers)) < MIN_SEQUENCES:
        return None
    prompts = list(dict.fromkeys([*one.numbers, *other.numbers]))
    columns = [
        [of_prompt.get(i, 0) for i in prompts] for sums in (one, other) for of_prompt in (sums.amounts, sums.numbers)
    ]
    return difference_of_means(*columns, seed=_SEED)


def merged(parts: Iterable[Sums]) -> Sums:
    """All of them together."""
    total = Sums()
    for part in parts:
        for prompt, number in part.numbers.items():
            total.add(prompt, part.amounts[prompt], number)
    return total
