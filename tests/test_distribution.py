"""Where the official sampler draws from torch's generator, surelock agrees with it in distribution.

The sampler is written out here from its published description (one canvas, plain forwards, torch's own random numbers)
and both are run many times on a tiny model. Two-sample chi-square tests at a level of 1e-6 each: with the eight below,
a false alarm once in 100,000 runs on fresh seeds; the seeds are fixed, so a pass stays a pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from surelock.config import EngineConfig
from surelock.engine.engine import Engine
from surelock.models.transformer import Transformer
from surelock.params import SamplingParams
from tests.tiny import tiny_model

VOCAB, MASK, PROMPT, NUM_TOKENS = 5, 4, [1, 0, 3], 3
NUM_RUNS = 1500


def official_run(
    logits_of: Callable[[tuple[int, ...]], Tensor],
    temperature: float,
    unmasking: str,
    block_length: int,
    generator: torch.Generator,
) -> tuple[int, ...]:
    """One canvas by the official sampler: one token a step, Gumbel noise in float64, MASK left out as surelock does."""
    x = torch.tensor(PROMPT + [MASK] * NUM_TOKENS)
    for step in range(NUM_TOKENS):
        logits = logits_of(tuple(x.tolist()))
        noise = -torch.log(torch.rand(logits.shape, generator=generator, dtype=torch.float64))
        noisy = logits.double().exp() / noise**temperature
        noisy[:, MASK] = -math.inf
        x0 = noisy.argmax(1)
        confidence = logits.softmax(1).gather(1, x0.unsqueeze(1)).squeeze(1)
        if unmasking == "random":
            confidence = torch.rand(len(x), generator=generator)
        block_end = len(PROMPT) + (step // block_length + 1) * block_length
        confidence[block_end:] = -math.inf
        confidence[x != MASK] = -math.inf
        best = int(confidence.argmax())
        x[best] = x0[best]
    return tuple(x[len(PROMPT) :].tolist())


def surelock_runs(
    model: Transformer, temperature: float, unmasking: str, block_length: int
) -> Counter[tuple[int, ...]]:
    engine = Engine(model, EngineConfig(max_batch_size=256))
    for seed in range(NUM_RUNS):
        params = SamplingParams(
            max_tokens=NUM_TOKENS,
            temperature=temperature,
            unmasking=unmasking,  # type: ignore[arg-type]
            block_length=block_length,
            seed=seed,
            lock=None,
        )
        engine.add_request(PROMPT, params)
    counts: Counter[tuple[int, ...]] = Counter()
    while engine.has_unfinished:
        finished = engine.step(watched=False)
        counts.update(tuple(snapshot.tokens[len(PROMPT) :]) for snapshot in finished)
    return counts


@pytest.mark.parametrize("temperature", [0.5, 1.5])
@pytest.mark.parametrize("unmasking", ["low_confidence", "random"])
@pytest.mark.parametrize("block_length", [1, 3])
def test_texts_have_the_official_distribution(temperature: float, unmasking: str, block_length: int) -> None:
    model = tiny_model(5, vocab_size=VOCAB, embedding_size=VOCAB, mask_token_id=MASK, hidden_size=16, num_layers=1)
    generator = torch.Generator().manual_seed(99)
    # The runs meet few canvases.
    logits_of = cache(lambda tokens: model.logits(list(tokens)))
    official = Counter(
        official_run(logits_of, temperature, unmasking, block_length, generator) for _ in range(NUM_RUNS)
    )
    ours = surelock_runs(model, temperature, unmasking, block_length)
    assert two_sample_z(official, ours) < 4.75


def two_sample_z(a: Counter[tuple[int, ...]], b: Counter[tuple[int, ...]]) -> float:
    """Chi-square of two equally large samples as a standard normal score (Wilson and Hilferty); rare texts pooled."""
    common = {text for text in a | b if a[text] + b[text] >= 20}
    pairs = [(a[text], b[text]) for text in common]
    rare = (a.total() - sum(x for x, _ in pairs), b.total() - sum(y for _, y in pairs))
    pairs += [rare] if sum(rare) else []
    assert len(pairs) >= 4
    chi_square = sum((x - y) ** 2 / (x + y) for x, y in pairs)
    freedom = len(pairs) - 1
    spread = 2 / (9 * freedom)
    return (math.cbrt(chi_square / freedom) - (1 - spread)) / math.sqrt(spread)


def test_the_comparison_can_fail() -> None:
    model = tiny_model(5, vocab_size=VOCAB, embedding_size=VOCAB, mask_token_id=MASK, hidden_size=16, num_layers=1)
    assert two_sample_z(surelock_runs(model, 1.0, "random", 3), surelock_runs(model, 1.3, "random", 3)) > 4.75
