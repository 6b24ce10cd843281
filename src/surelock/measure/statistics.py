"""Is a difference between two runs over the same items more than chance? McNemar's test, bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from surelock.errors import ParameterError, shown
from surelock.measure.metrics import perplexity

NUM_RESAMPLES: Final = 5_000
# Bounds the memory of resampling: numbers held at once.
_CHUNK: Final = 1 << 20

_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's exact test of two runs over the same items.

    Attributes:
        only_a, only_b: items that only one of the two got right.
        p_value: two-sided; the chance of a split at least as uneven if either were as likely. 1 if there is no such
            item.
    """

    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with the ends of its confidence interval."""

    value: float
    low: float
    high: float


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """Compare which items two runs got right, by the exact binomial distribution (McNemar, Psychometrika 1947).

    Raises:
        ParameterError: the runs differ in length, or are empty.
    """
    _check_lengths(a=a, b=b)
    only_a = sum(bool(own) and not other for own, other in zip(a, b, strict=True))
    only_b = sum(bool(other) and not own for own, other in zip(a, b, strict=True))
    return McNemar(only_a, only_b, _two_sided(min(only_a, only_b), only_a + only_b))


def paired_difference(a: Sequence[float], b: Sequence[float], *, seed: int, level: float = 0.95) -> Interval:
    """mean(a) - mean(b) with a percentile bootstrap over the items (Efron and Tibshirani 1993, chapter 13).

    If all items differ by the same, the interval has no width, however few there are: read `mcnemar` beside it.

    Args:
        a, b: a number or a truth value for each item, the same items in the same order.
        seed: of the resampling.
        level: of the interval.

    Raises:
        ParameterError: the runs differ in length or are empty, or the level is not between 0 and 1.
    """
    _check_lengths(a=a, b=b)
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    means = [weights @ difference[items] for items, weights in _resamples(difference[:, None], seed)]
    low, high = _ends(np.concatenate(means) / len(difference), level)
    return Interval(float(difference.mean()), low, high)


def weighted_mean(num: Sequence[float], den: Sequence[float], *, seed: int, level: float = 0.95) -> Interval:
    """sum(num) / sum(den) with a percentile bootstrap over the items.

    Args:
        num, den: for each item what it adds to the sum, and of how many things that is the sum.
        seed: of the resampling.
        level: of the interval.

    Raises:
        ParameterError: the sequences differ in length or are empty, den sums to 0, or the level is not between 0 and 1.
    """
    _check_lengths(num=num, den=den)
    # [items, 2]
    columns = np.asarray([num, den], dtype=np.float64).T
    total = columns.sum(axis=0)
    if total[1] == 0:
        raise ParameterError("den sums to 0 and would be divided by; leave this mean out")
    drawn = np.concatenate([weights @ columns[items] for items, weights in _resamples(columns, seed)])
    # A few resamples of rare things have nothing to divide by.
    with np.errstate(divide="ignore", invalid="ignore"):
        means = drawn[:, 0] / drawn[:, 1]
    low, high = _ends(means[np.isfinite(means)], level)
    return Interval(float(total[0] / total[1]), low, high)


def perplexity_ratio(
    scores: Sequence[tuple[float, int]], baseline: Sequence[tuple[float, int]], *, seed: int, level: float = 0.95
) -> Interval:
    """Perplexity of `scores` over that of `baseline`, with a percentile bootstrap over prompts, paired.

    Args:
        scores, baseline: (nats, tokens) of each prompt's text, the same prompts in the same order.
        seed: of the resampling.
        level: of the interval.

    Raises:
        ParameterError: the prompts differ in number, or there is no token.
    """
    if len(scores) != len(baseline):
        raise ParameterError(f"there are {len(scores)} scores for {len(baseline)} of the baseline; give pairs")
    value = perplexity(scores) / perplexity(baseline)
    # [prompts, 4]: nats and tokens, of the scores and of the baseline
    columns = np.concatenate([np.asarray(scores, np.float64), np.asarray(baseline, np.float64)], axis=1)
    # [resamples, prompts]: how often each prompt is drawn
    drawn = np.random.default_rng(seed).multinomial(len(scores), [1 / len(scores)] * len(scores), size=NUM_RESAMPLES)
    sums = drawn @ columns
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
    low, high = np.nanquantile(difference, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, math.exp(low), math.exp(high))


def _resamples(items: _Array, seed: int) -> Iterator[tuple[_Array, _Array]]:
    """How often each resample of [items, columns] draws each item: (one index per different item, [resamples, items]).

    Equal items are drawn as one with their number as its weight, which is the same distribution and far less work
    where items are right or wrong.
    """
    _, first, counts = np.unique(items, axis=0, return_index=True, return_counts=True)
    rng = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // len(counts))
    for start in range(0, NUM_RESAMPLES, at_once):
        size = min(at_once, NUM_RESAMPLES - start)
        yield first, rng.multinomial(len(items), counts / len(items), size=size)


def _ends(values: _Array, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ParameterError(f"level is {shown(level)}; it must be between 0 and 1, for example 0.95")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _two_sided(smaller: int, total: int) -> float:
    """P(as uneven or more) of `total` fair coins, `smaller` of which fell on the rarer side."""
    tail, ways = 0, 1
    for number in range(smaller + 1):
        tail += ways
        ways = ways * (total - number) // (number + 1)
    # Integers of any size divide to the nearest float.
    return min(1.0, 2 * tail / (1 << total))


def _check_lengths(**sequences: Sequence[float]) -> None:
    lengths = {name: len(sequence) for name, sequence in sequences.items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ParameterError(f"the lengths differ ({told}); give the same items in the same order")
    if not all(lengths.values()):
        raise ParameterError("there are no items to compare; give at least one")
