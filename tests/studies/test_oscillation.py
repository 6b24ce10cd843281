"""Flips, returns and near ties, counted on a scripted history."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from studies.forced.oscillation import History, Likeness
from surelock.measure.instrumented import InstrumentedDecoder
from surelock.params import SamplingParams
from tests.tiny import MASK, tiny_model

VOCAB = 5


def history_of(first: list[list[int]], masked: list[list[bool]], second: int = 4, margin: float = 1.0) -> History:
    """Likeliest tokens [T][N] of one canvas; MASK (3) is likelier still, and token `second` the runner-up."""
    history = History()
    for tokens, are_masked in zip(first, masked, strict=True):
        logits = torch.zeros(1, len(tokens), VOCAB)
        logits[..., 3] = 9.0
        logits[..., second] = 5.0 - margin
        logits[0, torch.arange(len(tokens)), torch.tensor(tokens)] = 5.0
        step: Any = SimpleNamespace(
            logits=logits,
            inputs=torch.zeros(1, len(tokens), dtype=torch.int64),
            masked=torch.tensor([are_masked]),
            kl=torch.zeros(1, len(tokens)),
        )
        history.take(step, mask_token_id=3)
    return history


def test_flips_and_returns_are_counted_while_the_state_lasts() -> None:
    history = history_of(
        first=[[0, 0, 0], [0, 1, 1], [0, 0, 2], [1, 1, 2]],
        masked=[[False, True, True], [False, True, True], [False, True, False], [False, True, False]],
    )
    masked = history.moves("masked")
    # Position 1 flips three times and returns twice; position 2 flips once, then leaves the state.
    assert len(masked.flipped) == 4
    assert masked.flipped.sum() == 4
    assert masked.returned.sum() == 2
    assert history.flips_in("masked").sum(0).tolist() == [[0, 3, 1]]
    generated = history.moves("generated")
    assert len(generated.flipped) == 1
    assert not generated.flipped.any()
    prompt = history.moves("prompt")
    assert prompt.flipped.tolist() == [False, False, True]
    assert (prompt.before[2], prompt.now[2]) == (0, 1)
    assert history.flips_in("prompt")[:, 0, 0].tolist() == [False, False, False, True]


def test_the_runner_up_and_near_ties() -> None:
    masked = [[False, True, True]] * 2
    swapped = history_of([[0, 0, 1], [0, 4, 2]], masked).moves("masked")
    assert swapped.flipped.tolist() == [True, True]
    assert swapped.swapped.tolist() == [True, False]
    assert not swapped.near_tie.any()
    assert history_of([[0, 0, 1], [0, 0, 1]], masked, margin=0.1).moves("masked").near_tie.all()


def test_a_real_run_is_split_into_three_states() -> None:
    history = History()
    for step in InstrumentedDecoder(tiny_model()).steps(
        [[1, 2, 3], [4, 5, 6]], SamplingParams(max_tokens=8, lock=None)
    ):
        history.take(step, MASK)
    counts = {state: len(history.moves(state).kl) for state in ("masked", "generated", "prompt")}
    # Of 8 positions, one more is visible in each step; a row counts from its second step in a state on.
    assert counts == {"masked": 2 * 28, "generated": 2 * 21, "prompt": 2 * 3 * 7}
    assert (history.tops.first != MASK).all()
    assert np.isfinite(history.moves("generated").kl).all()


def test_likeness() -> None:
    likeness = Likeness(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    assert likeness(np.array([0, 0, 2]), np.array([0, 1, 1])) == pytest.approx([1.0, 0.0, 0.8])
    assert len(likeness(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))) == 0
