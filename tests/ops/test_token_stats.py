"""Token statistics against an independent float64 computation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surelock.decoding.noise import Purpose, gumbel, row_key
from surelock.ops.token_stats import TokenStats, token_stats
from surelock.ops.token_stats.reference import PART_ROWS


def exact(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities [n, V] in float64, the two largest [n, 2] and the entropy [n], one row at a time."""
    p = logits.double().softmax(1)
    largest = torch.zeros(len(p), 2, dtype=torch.float64)
    entropy = torch.zeros(len(p), dtype=torch.float64)
    for i, row in enumerate(p):
        top = row.sort(descending=True).values[:2]
        largest[i, : len(top)] = top
        entropy[i] = -(row[row > 0] * row[row > 0].log()).sum()
    return p, largest, entropy


def stats_of(
    logits: Tensor, *, mask: int = 0, allow_mask: bool = True, rounding: torch.dtype | None = None
) -> TokenStats:
    num = len(logits)
    return token_stats(
        logits,
        mask_token_id=mask,
        allow_mask=torch.full((num,), allow_mask),
        temperature=torch.zeros(num, dtype=torch.float64),
        key=torch.zeros(num, dtype=torch.int64),
        may_sample=False,
        rounding=rounding,
    )


def assert_exact(stats: TokenStats, logits: Tensor) -> None:
    p, largest, entropy = exact(logits)
    chosen = p.gather(1, stats.token.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(stats.probability.double(), chosen, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(stats.top_probability.double(), largest[:, 0], rtol=1e-6, atol=0)
    torch.testing.assert_close(stats.second_probability.double(), largest[:, 1], rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(stats.entropy.double(), entropy, rtol=1e-5, atol=1e-9)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    num_rows=st.sampled_from([0, 1, 2, 9]),
    num_tokens=st.sampled_from([1, 2, 7, 300]),
    scale=st.sampled_from([0.0, 1.0, 8.0, 40.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    allow_mask=st.booleans(),
)
def test_equals_float64(
    seed: int, num_rows: int, num_tokens: int, scale: float, dtype: torch.dtype, allow_mask: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(num_rows, num_tokens, generator=generator)).to(dtype)
    logits[torch.rand(logits.shape, generator=generator) < 0.1] = -torch.inf
    logits[:, 0] = 1.0
    mask = num_tokens // 2
    before = logits.clone()
    stats = stats_of(logits, mask=mask, allow_mask=allow_mask)
    assert torch.equal(logits, before)
    assert stats.token.dtype is torch.int64
    assert {column.dtype for column in stats[1:]} == {torch.float32}
    # Tensor.argmax gives the first of equals too, so ties are tested by hand below.
    allowed = logits.double()
    if not allow_mask:
        allowed[:, mask] = -torch.inf
    assert stats.token.tolist() == allowed.argmax(1).tolist()
    assert_exact(stats, logits)


def test_nearly_certain_rows_keep_their_entropy_and_order() -> None:
    """1 - p from 1e-6 to 1e-13: p itself is 1 in float32, or nearly."""
    logits = torch.zeros(8, 50)
    logits[:, 3] = torch.linspace(18, 34, 8)
    stats = stats_of(logits)
    torch.testing.assert_close(
        stats.entropy.double(), exact_entropy_of_one_peak(logits[:, 3].double(), 49), rtol=1e-5, atol=0
    )
    assert stats.entropy.diff().max() < 0
    assert stats.second_probability.diff().max() < 0


def exact_entropy_of_one_peak(height: Tensor, num_others: int) -> Tensor:
    """Of one logit `height` and num_others zeros, without cancellation."""
    weight = torch.exp(-height)
    return torch.log1p(num_others * weight) + num_others * weight * height / (1 + num_others * weight)


def test_of_equal_values_the_lowest_id() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0, 5.0]])
    assert stats_of(logits).token.tolist() == [1, 0]
    without_mask = stats_of(logits, mask=1, allow_mask=False)
    assert without_mask.token.tolist() == [3, 0]
    torch.testing.assert_close(without_mask.second_probability, without_mask.top_probability)


def test_mask_is_left_out_of_the_choice_but_not_of_the_softmax() -> None:
    logits = torch.tensor([[1.0, 9.0, 2.0]])
    stats = stats_of(logits, mask=1, allow_mask=False)
    assert stats.token.tolist() == [2]
    assert_exact(stats, logits)
    assert stats_of(logits, mask=1, allow_mask=True).token.tolist() == [1]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("may_sample", [False, True])
def test_rows_that_are_not_finite_have_no_probability(bad: float, may_sample: bool) -> None:
    logits = torch.zeros(4, 30)
    logits[1, 7] = bad
    logits[2] = -torch.inf
    stats = token_stats(
        logits, mask_token_id=5, allow_mask=torch.zeros(4, dtype=torch.bool), temperature=torch.ones(4).double(),
        key=torch.arange(4), may_sample=may_sample,
    )  # fmt: skip
    for column in stats[1:]:
        assert column.isnan().tolist() == [False, True, True, False]
    assert 0 <= int(stats.token.min()) <= int(stats.token.max()) < 30


def test_float32_logits_are_rounded_first_if_asked() -> None:
    # In bfloat16 both are 8.0625.
    logits = torch.tensor([[0.0, 8.06, 8.0625, 1.0]])
    assert stats_of(logits).token.tolist() == [2]
    rounded = stats_of(logits, rounding=torch.bfloat16)
    assert rounded.token.tolist() == [1]
    for ours, theirs in zip(rounded, stats_of(logits.bfloat16()), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("num_rows", [5, PART_ROWS + 40])
def test_samples_as_the_noise_of_the_row_says(num_rows: int) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(num_rows, 33, generator=generator)
    index = torch.arange(num_rows)
    seed, step, position = index * 7 - 3, index % 5 + 1, index * 2
    temperature = torch.where(index % 3 == 0, 0.0, 0.5 + index % 2).double()
    stats = token_stats(
        logits, mask_token_id=32, allow_mask=index % 2 == 0, temperature=temperature,
        key=row_key(seed, step, position, Purpose.TOKEN), may_sample=True,
    )  # fmt: skip
    scores = logits + temperature.unsqueeze(1) * gumbel(seed, step, position, 33)
    scores[index % 2 == 1, 32] = -torch.inf
    assert stats.token.tolist() == scores.argmax(1).tolist()
    assert stats.token[temperature > 0].tolist() != logits[temperature > 0].argmax(1).tolist()
    assert_exact(stats, logits)
