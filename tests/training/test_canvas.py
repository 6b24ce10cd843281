"""What is masked in training is what decoding meets."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import canvas
from training.canvas import MAX_TURN_CANVAS, Row, text_row, turn_row
from training.problems import EOS, Example

NO_DIGITS = np.zeros(4096, np.bool_)


def row_of(seed: int, prompt: int = 20, answer: int = 40) -> Row:
    example = Example("add", np.arange(100, 100 + prompt), np.arange(200, 200 + answer))
    row = turn_row(random.Random(seed), np.random.default_rng(seed), example, NO_DIGITS)
    assert row is not None
    return row


@given(st.integers(0, 10_000))
def test_a_turn_masks_the_generation_only_and_ends_in_fill(seed: int) -> None:
    row = row_of(seed)
    assert row.tokens[:20].tolist() == list(range(100, 120))
    assert row.tokens[20:60].tolist() == list(range(200, 240))
    assert (row.tokens[60:] == EOS).all()
    assert not row.masked[:20].any()
    assert row.masked.any()
    assert (row.weights[~row.masked] == 0).all()
    assert np.isfinite(row.weights).all()


@given(st.integers(0, 10_000))
def test_a_row_counts_by_its_answer_whatever_the_number_of_masks(seed: int) -> None:
    row = row_of(seed)
    # Less only where all that is masked counts less than one whole position.
    assert row.weights.sum() <= 40.001
    if (row.masked[20:60]).sum() >= canvas.HORIZON + 10:
        assert row.weights.sum() == pytest.approx(40, rel=1e-4)


def test_half_of_the_canvases_are_fitted() -> None:
    lengths = [row_of(seed).tokens.size - 20 for seed in range(400)]
    assert 150 < lengths.count(64) < 300
    assert min(lengths) >= 40
    assert len(set(lengths)) > 20


def test_a_canvas_that_decoding_would_not_make_is_left_out() -> None:
    example = Example("sort", np.arange(MAX_TURN_CANVAS), np.arange(10))
    assert turn_row(random.Random(0), np.random.default_rng(0), example, NO_DIGITS) is None


def test_ahead_sees_nothing_after_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "TURN_MASKS", {"ahead": 1.0})
    for seed in range(50):
        row = row_of(seed)
        cut = int(np.argmax(row.masked))
        assert row.masked[cut:].all()
        near, far = row.weights[cut : cut + canvas.HORIZON], row.weights[cut + canvas.HORIZON :]
        assert not far.size or near.max() > far.max()


def test_blocks_are_where_decoding_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "TURN_MASKS", {"block": 1.0})
    for seed in range(50):
        generation = row_of(seed).masked[20:]
        begin = int(np.argmax(generation))
        blocks = [block for block in (8, 16, 32, 64) if generation[(begin // block + 1) * block :].all()]
        assert blocks


def test_digits_are_masked_more_than_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "TURN_MASKS", {"digits": 1.0})
    digits = np.zeros(4096, np.bool_)
    digits[200:220] = True
    example = Example("add", np.arange(100, 120), np.arange(200, 240))
    rows = [turn_row(random.Random(seed), np.random.default_rng(seed), example, digits) for seed in range(200)]
    masked = np.mean([row.masked[20:60] for row in rows if row is not None], axis=0)
    assert masked[:20].mean() > masked[20:].mean() + 0.1


@given(st.integers(0, 10_000), st.sampled_from([16, 64, 128, 320, 512]))
def test_text_keeps_its_tokens(seed: int, length: int) -> None:
    tokens = np.arange(300, 300 + length)
    row = text_row(random.Random(seed), np.random.default_rng(seed), tokens)
    assert (row.tokens == tokens).all()
    assert row.masked.any()
    assert (row.weights[~row.masked] == 0).all()
