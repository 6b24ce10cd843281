"""The fused ops at the sizes of LLaDA-8B on a CUDA device: `python -m pytest -m gpu tests/gpu/test_ops.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from surelock.ops.dispatch import is_fast
from surelock.ops.head_logits import Head
from surelock.ops.step_kl import StepKL, kl_from_logits, step_kl
from surelock.ops.step_kl.from_hidden import by_vocabulary
from surelock.ops.token_stats import TokenStats, token_stats
from surelock.ops.token_stats import reference as token_stats_reference

pytestmark = pytest.mark.gpu
VOCAB, MASK = 126_464, 126_336
NUM_ROWS = [1, 3, 64, 300]
DTYPES = [torch.float32, torch.bfloat16]


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda").to(dtype)


def token_stats_of(
    logits: Tensor, *, may_sample: bool = False, rounding: torch.dtype | None = None
) -> partial[TokenStats]:
    """The op's arguments for these rows: every third greedy, every second may propose MASK."""
    index = torch.arange(len(logits), device="cuda")
    heat = torch.where(index % 3 == 1, 0.0, 0.8 * may_sample).double()
    return partial(
        token_stats, logits, mask_token_id=MASK, allow_mask=index % 2 == 0, temperature=heat,
        key=index * 0x12345678DEADBEEF, may_sample=may_sample, rounding=rounding,
    )  # fmt: skip


def captured(op: Callable[[], TokenStats | StepKL]) -> tuple[torch.cuda.CUDAGraph, TokenStats | StepKL]:
    """Warm up, then capture. Any wait for the host inside would raise."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        op()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = op()
    return graph, result


def test_triton_runs_here() -> None:
    assert is_fast(torch.device("cuda"))


@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("may_sample", [False, True])
@pytest.mark.parametrize("rounding", [None, torch.bfloat16])
def test_token_stats(num_rows: int, dtype: torch.dtype, may_sample: bool, rounding: torch.dtype | None) -> None:
    logits = 3 * normal(num_rows, num_rows, VOCAB, dtype=dtype)
    logits[0, MASK] = 40.0
    logits[-1, VOCAB - 1] = 30.0
    logits[:, 5::1000] = -torch.inf
    op = token_stats_of(logits, may_sample=may_sample, rounding=rounding)
    found = op()
    expected = token_stats_reference(*op.args, **op.keywords)
    # Noisy scores are float64 and their logarithms may differ in the last place: never enough to matter here.
    assert torch.equal(found.token, expected.token)
    exact = (logits if rounding is None else logits.to(rounding)).double().softmax(1)
    top_two = exact.topk(2).values
    torch.testing.assert_close(
        found.probability.double(), exact.gather(1, found.token.unsqueeze(1)).squeeze(1), rtol=1e-5, atol=1e-12
    )
    torch.testing.assert_close(found.top_probability.double(), top_two[:, 0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found.second_probability.double(), top_two[:, 1], rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(found.entropy.double(), torch.special.entr(exact).sum(1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("num_rows", [3, 64])
def test_token_stats_of_rows_that_are_not_finite(bad: float, num_rows: int) -> None:
    logits = normal(0, num_rows, VOCAB, dtype=torch.bfloat16)
    logits[1, 100_000] = bad
    for may_sample in (False, True):
        stats = token_stats_of(logits, may_sample=may_sample)()
        assert all(column.isnan().nonzero().tolist() == [[1]] for column in stats[1:])
        assert 0 <= int(stats.token.min()) <= int(stats.token.max()) < VOCAB


@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_of_equal_values_the_lowest_id(num_rows: int) -> None:
    logits = torch.zeros(num_rows, VOCAB, device="cuda", dtype=torch.bfloat16)
    ids = torch.arange(num_rows, device="cuda") * 401
    logits.scatter_(1, torch.stack((ids + 7, ids + 5000), 1), 1.0)
    stats = token_stats_of(logits)()
    assert stats.token.tolist() == (ids + 7).tolist()
    assert torch.equal(stats.top_probability, stats.second_probability)


@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize("change", [0.0, 1e-4, 1e-2, 0.3, 20.0])
def test_kl_from_logits(num_rows: int, change: float) -> None:
    logits = 3 * normal(1, num_rows, VOCAB)
    logits[:, 77] = torch.linspace(10, 40, num_rows, device="cuda")
    previous = logits + change * normal(2, num_rows, VOCAB)
    kl, uncertainty = kl_from_logits(logits, previous)
    log_p, log_q = logits.double().log_softmax(1), previous.double().log_softmax(1)
    p = log_p.exp()
    exact = (p * (log_p - log_q)).sum(1)
    near = exact < 1
    if change <= 0.3:
        assert bool(near.all())
    assert float((kl - exact).abs().where(near, 0).max()) < 1e-6
    torch.testing.assert_close(kl.double(), exact, rtol=1e-5, atol=1e-6)
    if change == 0:
        assert kl.tolist() == [0.0] * num_rows
    others = p.scatter(1, log_p.argmax(1, keepdim=True), 0.0).sum(1)
    torch.testing.assert_close(uncertainty.double(), others, rtol=1e-5, atol=1e-14)


@pytest.mark.parametrize("index", [0, 1])
def test_kl_of_rows_that_are_not_finite(index: int) -> None:
    for bad in (torch.nan, torch.inf):
        pair = [normal(seed, 3, VOCAB) for seed in (1, 2)]
        pair[index][1, 100_000] = bad
        kl, uncertainty = kl_from_logits(*pair)
        assert kl.isnan().tolist() == [False, True, False]
        assert uncertainty.isnan().tolist() == [False, index == 0, False]


@pytest.mark.parametrize("num_rows", [0, *NUM_ROWS])
@pytest.mark.parametrize("dtype", DTYPES)
def test_step_kl(num_rows: int, dtype: torch.dtype) -> None:
    hidden = normal(1, num_rows, 64, dtype=dtype)
    previous = (hidden + 0.02 * normal(2, num_rows, 64)).to(dtype)
    head = Head((0.3 * normal(3, VOCAB, 64)).to(dtype))
    found = step_kl(hidden, previous, head)
    for ours, theirs in zip(found, by_vocabulary(hidden, previous, head), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6)
    assert num_rows == 0 or float(found.kl.min()) > 0


@pytest.mark.parametrize("num_rows", [3, 300])
def test_both_can_be_captured(num_rows: int) -> None:
    logits, previous = normal(1, num_rows, VOCAB), normal(2, num_rows, VOCAB)
    for op in (token_stats_of(logits, may_sample=True), partial(kl_from_logits, logits, previous)):
        graph, result = captured(op)
        logits.copy_(normal(num_rows, num_rows, VOCAB))
        graph.replay()
        for replayed, eager in zip(result, op(), strict=True):
            assert torch.equal(replayed, eager)
