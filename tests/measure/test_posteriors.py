"""Posteriors are measured in parts of bounded size, whatever the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surelock.measure import posteriors
from surelock.measure.forced.lockstep import self_paced
from surelock.measure.instrumented import InstrumentedDecoder
from surelock.measure.posteriors import compare, row_parts
from surelock.measure.trace import trace
from surelock.ops.step_kl import kl_from_logits
from surelock.params import LockParams, SamplingParams
from tests.tiny import tiny_model

CANVASES = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15]]
PARAMS = SamplingParams(max_tokens=6, lock=None, seed=0)


@given(st.integers(0, 10_000), st.integers(1, 1 << 26))
def test_parts_cover_all_rows_and_hold_few_elements(num_rows: int, num_columns: int) -> None:
    num_columns = max(num_columns, 1 << 12)
    found = row_parts(num_rows, num_columns)
    assert [index for part in found for index in range(num_rows)[part]] == list(range(num_rows))
    largest = max(len(range(num_rows)[part]) for part in found)
    assert largest <= 1 or largest * num_columns <= posteriors.PART_ELEMENTS


def _traced() -> dict[str, Any]:
    found = trace(InstrumentedDecoder(tiny_model()), CANVASES, PARAMS)
    return {name: getattr(found, name) for name in ("kl", "logit_step", "log_step", "tv", "log_gap", "token_gap")}


def _compared() -> dict[str, Any]:
    params = SamplingParams(max_tokens=6, lock=LockParams(kl_threshold=0.2))
    kl = [
        compare(step.fresh_logits.flatten(0, 1), step.sides["locked"].step.logits.flatten(0, 1), 47).kl
        for step in self_paced(tiny_model(), CANVASES, params)
    ]
    return {"kl": torch.cat(kl).numpy()}


@pytest.mark.parametrize("measure", [_traced, _compared])
def test_small_parts_measure_the_same(measure: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure()
    bound = 4 * tiny_model().config.embedding_size
    sizes: list[int] = []

    def spy(kl_from_logits: Callable[[Tensor, Tensor], Any]) -> Callable[[Tensor, Tensor], Any]:
        def counted(logits: Tensor, previous: Tensor) -> Any:
            sizes.append(logits.numel())
            return kl_from_logits(logits, previous)

        return counted

    monkeypatch.setattr(posteriors, "PART_ELEMENTS", bound)
    monkeypatch.setattr(posteriors, "kl_from_logits", spy(kl_from_logits))
    for name, values in measure().items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert sizes
    assert max(sizes) == bound
