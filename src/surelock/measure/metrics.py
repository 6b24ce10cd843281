"""Numbers of generated text that need no model: repetition, entropy, how far two runs agree, and what they cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from surelock.errors import ParameterError, shown
from surelock.output import RequestStats


def distinct_n(token_ids: Sequence[int], n: int) -> float:
    """Share of different n-grams among all n-grams of one text: 1 if none occurs twice, 1 too if there is none.

    Li et al. 2016 (arXiv 1510.03055) with the n-grams as denominator; averaged over texts, not taken over their union.

    Raises:
        ParameterError: n is below 1.
    """
    if n < 1:
        raise ParameterError(f"n is {shown(n)}; it must be at least 1")
    grams = [tuple(token_ids[start : start + n]) for start in range(len(token_ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def entropy(token_ids: Sequence[int]) -> float:
    """Entropy of one text's token frequencies, in nats: 0 for a text of one repeated token, at most ln(length)."""
    counts = Counter(token_ids).values()
    return -sum(count / len(token_ids) * math.log(count / len(token_ids)) for count in counts)


def agreement(first: Sequence[int], second: Sequence[int]) -> float:
    """Share of positions that hold the same token in both; 1 if there is no position.

    Raises:
        ParameterError: the lengths differ.
    """
    if len(first) != len(second):
        raise ParameterError(
            f"the texts have {len(first)} and {len(second)} tokens; compare texts of the same canvas, end ids included"
        )
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first) if first else 1.0


def perplexity(pairs: Sequence[tuple[float, int]]) -> float:
    """exp of all nats over all tokens (micro-averaged) of what `Judge.negative_log_likelihood` gives.

    Raises:
        ParameterError: there is no token.
    """
    num_tokens = sum(count for _, count in pairs)
    if num_tokens == 0:
        raise ParameterError(f"there is no token in {len(pairs)} texts, so no perplexity; give texts with words")
    mean = sum(nats for nats, _ in pairs) / num_tokens
    return math.exp(mean) if mean < 700 else math.inf


def costs(stats: Sequence[RequestStats]) -> dict[str, float]:
    """The mean active_ratio of some requests, and the flops_ratio (`full`) of their sums; 1.0 without any."""
    full = [each.flops["full"] for each in stats]
    base = sum(cost["base"] for cost in full)
    return {
        "active_ratio": fmean(each.active_ratio for each in stats) if full else 1.0,
        "flops_ratio": sum(cost["locked"] for cost in full) / base if base else 1.0,
    }
