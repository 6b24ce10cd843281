"""Streaming KL and uncertainty against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surelock.ops.head_logits import Head
from surelock.ops.step_kl import kl_from_logits, step_kl
from surelock.ops.step_kl.from_hidden import by_pairs, by_vocabulary


def exact_of_logits(logits: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    """KL and 1 - max p in float64."""
    log_p, log_q = logits.double().log_softmax(1), previous.double().log_softmax(1)
    p = log_p.exp()
    others = p.scatter(1, log_p.argmax(1, keepdim=True), 0.0).sum(1)
    return (p * (log_p - log_q)).sum(1), others


def exact(hidden: Tensor, previous: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same of logits that were rounded to float32 first."""
    return exact_of_logits(hidden @ weight.T, previous @ weight.T)


@given(
    seed=st.integers(0, 10_000),
    num_rows=st.integers(1, 9),
    num_tokens=st.integers(2, 300),
    part=st.integers(1, 700),
    change=st.sampled_from([0.0, 1e-6, 1e-4, 1e-2, 0.3]),
)
def test_within_1e_6_of_float64_in_any_parts(
    seed: int, num_rows: int, num_tokens: int, part: int, change: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_rows, 8, generator=generator)
    previous = hidden + change * torch.randn(num_rows, 8, generator=generator)
    weight = torch.randn(num_tokens, 8, generator=generator)
    kl, uncertainty = by_vocabulary(hidden, previous, Head(weight), part_elements=part)
    expected, others = exact(hidden, previous, weight)
    torch.testing.assert_close(kl.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(uncertainty.double(), others, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("scale", [3.0, 30.0, 300.0])
@pytest.mark.parametrize("part", [7, 500, 1 << 20])
def test_posteriors_far_apart_neither_overflow_nor_look_near(scale: float, part: int) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = 3 * torch.randn(7, 16, generator=generator)
    previous = hidden + scale * torch.randn(7, 16, generator=generator)
    weight = torch.randn(400, 16, generator=generator)
    kl = by_vocabulary(hidden, previous, Head(weight), part_elements=part).kl
    torch.testing.assert_close(kl.double(), exact(hidden, previous, weight)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_tokens", [4096, 126_464])
@pytest.mark.parametrize("moved", [0.5, 5.0, 20.0, 31.0, 33.0, 60.0, 79.0, 81.0, 200.0])
def test_a_top_logit_that_moves_far_in_a_flat_posterior_is_measured(num_tokens: int, moved: float) -> None:
    logits = torch.randn(3, num_tokens, generator=torch.Generator().manual_seed(2)) * 0.01
    previous = logits.clone()
    previous[:, 17] -= moved
    logits[:, 17] = logits.max(1).values + 1e-3
    expected = exact_of_logits(logits, previous)[0]
    assert (expected > 0).all()
    error = (kl_from_logits(logits, previous).kl.double() - expected).abs()
    assert (error <= 1e-6 * (1 + moved)).all()


def test_uncertainty_of_a_saturated_row_is_not_zero() -> None:
    hidden = torch.tensor([[40.0]])
    uncertainty = step_kl(hidden, hidden, Head(torch.tensor([[1.0], [0.0], [0.0]]))).uncertainty
    torch.testing.assert_close(uncertainty, 2 * torch.exp(torch.tensor([-40.0])))


def test_equal_rows_do_not_move_and_no_rows_are_fine() -> None:
    hidden = torch.randn(5, 8)
    weight = torch.randn(64, 8)
    assert step_kl(hidden, hidden.clone(), Head(weight)).kl.max() < 1e-9
    assert step_kl(hidden[:0], hidden[:0], Head(weight)).kl.shape == (0,)


def test_nan_is_never_a_small_divergence() -> None:
    hidden = torch.randn(2, 8)
    hidden[0, 0] = torch.nan
    kl = by_vocabulary(hidden, torch.randn(2, 8), Head(torch.randn(64, 8)), part_elements=10).kl
    assert kl.isnan().tolist() == [True, False]


def test_half_precision_rows_are_compared_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(6, 32, generator=generator).bfloat16()
    previous = (hidden.float() + 1e-2 * torch.randn(6, 32, generator=generator)).bfloat16()
    weight = torch.randn(200, 32, generator=generator).bfloat16()
    kl = step_kl(hidden, previous, Head(weight)).kl
    torch.testing.assert_close(
        kl.double(), exact(hidden.float(), previous.float(), weight.float())[0], rtol=1e-3, atol=1e-6
    )


def test_scale_and_bias_of_the_head_count() -> None:
    hidden, previous, weight = torch.randn(3, 8), torch.randn(3, 8), torch.randn(50, 8)
    scaled = by_vocabulary(hidden, previous, Head(weight, None, 0.25), part_elements=30).kl
    torch.testing.assert_close(scaled, step_kl(hidden, previous, Head(weight * 0.25)).kl, rtol=1e-4, atol=1e-6)
    bias = torch.randn(50)
    wide = Head(torch.cat((weight, bias.unsqueeze(1)), 1))
    ones = torch.ones(3, 1)
    biased = by_vocabulary(hidden, previous, Head(weight, bias), part_elements=30).kl
    torch.testing.assert_close(
        biased, step_kl(torch.cat((hidden, ones), 1), torch.cat((previous, ones), 1), wide).kl, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("change", [0.0, 1e-5, 1e-3, 0.1, 0.5])
@pytest.mark.parametrize("num_tokens", [1, 2, 50, 3000])
def test_near_posteriors_from_logits(change: float, num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(6, num_tokens, generator=generator)
    previous = logits + change * torch.randn(6, num_tokens, generator=generator) + 2.5
    kl, uncertainty = kl_from_logits(logits, previous)
    expected, others = exact_of_logits(logits, previous)
    assert float((kl - expected).abs().max()) < 1e-6
    torch.testing.assert_close(uncertainty.double(), others, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("scale", [5.0, 50.0, 500.0])
def test_far_posteriors_from_logits(scale: float) -> None:
    generator = torch.Generator().manual_seed(4)
    logits, previous = (scale * torch.randn(6, 900, generator=generator) for _ in range(2))
    torch.testing.assert_close(
        kl_from_logits(logits, previous).kl.double(), exact_of_logits(logits, previous)[0], rtol=1e-5, atol=1e-6
    )


def test_equal_logits_have_not_moved_and_no_rows_are_fine() -> None:
    logits = 5 * torch.randn(4, 700, generator=torch.Generator().manual_seed(5))
    assert kl_from_logits(logits, logits.clone()).kl.tolist() == [0.0] * 4
    assert [column.shape for column in kl_from_logits(logits[:0], logits[:0])] == [(0,), (0,)]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("index", [0, 1])
def test_logits_that_are_not_finite_are_never_a_small_divergence(bad: float, index: int) -> None:
    pair = torch.zeros(2, 3, 40)
    pair[index, 1, 11] = bad
    kl, uncertainty = kl_from_logits(*pair)
    assert kl.isnan().tolist() == [False, True, False]
    assert uncertainty.isnan().tolist() == [False, index == 0, False]


@pytest.mark.parametrize("part_pairs", [1, 4, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_the_rows_equal_parts_of_the_vocabulary(part_pairs: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(6)
    hidden, previous = (torch.randn(9, 8, generator=generator).to(dtype) for _ in range(2))
    head = Head(torch.randn(70, 8, generator=generator).to(dtype), torch.randn(70, generator=generator).to(dtype), 0.5)
    ours = by_pairs(hidden, previous, head, part_pairs=part_pairs)
    for mine, theirs in zip(ours, by_vocabulary(hidden, previous, head), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert by_pairs(hidden[:0], previous[:0], head).kl.shape == (0,)
