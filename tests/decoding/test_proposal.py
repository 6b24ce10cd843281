"""Tokens and confidence of masked rows."""

from __future__ import annotations

import pytest
import torch

from surelock.decoding.noise import gumbel
from surelock.decoding.proposal import RowParams, propose
from surelock.ops.head_logits import Head

VOCAB, MASK = 40, 39


def rows_of(num: int, *, temperature: float = 0.0, allow_mask: bool = False) -> RowParams:
    index = torch.arange(num)
    return RowParams(index + 5, index % 3 + 1, index, torch.full((num,), temperature), torch.full((num,), allow_mask))


@pytest.mark.parametrize("part_rows", [1, 3, 256])
def test_parts_do_not_matter_whatever_the_rows_ask_for(part_rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(10, VOCAB, generator=generator)
    logits[::3, MASK] = 20
    rows = rows_of(10)
    rows.temperature[:] = torch.tensor([0.0, 1.5] * 5)
    rows.allow_mask[:] = torch.tensor([True, False, False, False, False] * 2)
    tokens, confidence = propose(logits.clone(), Head(torch.eye(VOCAB)), rows, MASK, part_rows=part_rows)
    for row in range(10):
        scores = logits[row].double()
        if not rows.allow_mask[row]:
            scores[MASK] = -torch.inf
        if rows.temperature[row] > 0:
            scores += 1.5 * gumbel(rows.seed[row, None], rows.step[row, None], rows.position[row, None], VOCAB)[0]
        assert int(tokens[row]) == int(scores.argmax())
        assert float(confidence[row]) == float(logits[row].softmax(0)[tokens[row]])


def test_nearly_certain_rows_are_ranked_as_the_official_softmax_ranks_them() -> None:
    """Top logits of 20 to 32 leave 1 - p of 1e-6 to 1e-9: exp(logit - logsumexp) would round them together."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(200, VOCAB, generator=generator)
    logits[torch.arange(200), torch.arange(200) % 30] = 12 + 10 * torch.rand(200, generator=generator)
    tokens, confidence = propose(logits.clone(), Head(torch.eye(VOCAB)), rows_of(200), MASK)
    official = logits.softmax(1).gather(1, tokens.unsqueeze(1)).squeeze(1)
    assert torch.equal(confidence, official)
    exact = logits.double().softmax(1).gather(1, tokens.unsqueeze(1)).squeeze(1)
    assert float((confidence - exact).abs().max()) < 5e-7


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_have_no_confidence(bad: float) -> None:
    logits = torch.zeros(3, VOCAB)
    logits[1, 7] = bad
    _, confidence = propose(logits, Head(torch.eye(VOCAB)), rows_of(3), MASK)
    assert confidence.isnan().tolist() == [False, True, False]


def test_no_rows() -> None:
    tokens, confidence = propose(torch.zeros(0, VOCAB), Head(torch.eye(VOCAB)), rows_of(0), MASK)
    assert tokens.shape == confidence.shape == (0,)
