"""How sure a ratio of perplexities is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from surelock.errors import ParameterError
from surelock.measure.judge import perplexity
from surelock.measure.statistics import NUM_RESAMPLES, Interval


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
