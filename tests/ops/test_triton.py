"""Every Triton kernel against its reference on small ragged shapes: interpreted on a CPU, compiled on a GPU.

`python -m pytest tests/ops/test_triton.py` picks the device by itself.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import surelock.ops
from surelock.ops.add_norm import reference as add_norm_reference
from surelock.ops.dispatch import TRITON_OPS, choose, is_fast
from surelock.ops.noise import gumbel as gumbel_reference
from surelock.ops.rope_store import reference as rope_store_reference
from surelock.ops.row_attention import RowSpan, Spans
from surelock.ops.row_attention import reference as row_attention_reference
from surelock.ops.step_kl import reference as kl_reference
from surelock.ops.swiglu import reference as swiglu_reference
from surelock.ops.take_top import reference as take_top_reference
from surelock.ops.token_stats import reference as token_stats_reference

pytest.importorskip("triton", reason="Triton has no build for this platform")

import triton
import triton.language as tl

from surelock.ops.add_norm.triton import add_norm
from surelock.ops.noise.triton import gumbel
from surelock.ops.rope_store.triton import rope_store
from surelock.ops.row_attention.triton import row_attention
from surelock.ops.special.triton import SERIES_LIMIT, expm1_series, log1p
from surelock.ops.step_kl.triton import kl_from_logits
from surelock.ops.swiglu.triton import swiglu
from surelock.ops.take_top.triton import take_top
from surelock.ops.token_stats.triton import token_stats

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16]
dtypes = st.sampled_from(DTYPES)
rows = st.sampled_from([0, 1, 2, 5])


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal within rounding. The interpreter truncates to bfloat16 where a device rounds: one more unit each time."""
    half = theirs.dtype is not torch.float32
    torch.testing.assert_close(ours, theirs, rtol=4e-2 if half else 1e-5, atol=4e-2 if half else 1e-5, equal_nan=True)


def random(seed: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@settings(max_examples=12)
@given(seed=st.integers(0, 999), num_rows=rows, size=st.sampled_from([1, 7, 64, 1030]), dtype=dtypes)
def test_swiglu(seed: int, num_rows: int, size: int, dtype: torch.dtype) -> None:
    gate_up = random(seed, num_rows, 2 * size, dtype=dtype)
    assert_close(swiglu(gate_up), swiglu_reference(gate_up))


@settings(max_examples=12)
@given(
    seed=st.integers(0, 999), num_rows=rows, size=st.sampled_from([3, 64, 100]), dtype=dtypes, has_delta=st.booleans()
)
def test_add_norm(seed: int, num_rows: int, size: int, dtype: torch.dtype, has_delta: bool) -> None:
    x, weight = random(seed, num_rows, size, dtype=dtype), random(seed + 1, size, dtype=dtype)
    delta = random(seed + 2, num_rows, size, dtype=dtype) if has_delta else None
    normed, total = add_norm(x, delta, weight, 1e-5)
    expected_normed, expected_total = add_norm_reference(x, delta, weight, 1e-5)
    assert_close(total, expected_total)
    assert_close(normed, expected_normed)


@settings(max_examples=16)
@given(
    seed=st.integers(0, 999),
    num_rows=st.sampled_from([0, 1, 4, 9]),
    heads=st.sampled_from([(4, 4), (4, 2), (3, 1), (6, 3)]),
    head_dim=st.sampled_from([2, 8, 12]),
    dtype=dtypes,
    full_precision=st.booleans(),
)
def test_rope_store(
    seed: int, num_rows: int, heads: tuple[int, int], head_dim: int, dtype: torch.dtype, full_precision: bool
) -> None:
    num_heads, num_kv_heads = heads
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(21, generator=generator)[:num_rows].to(DEVICE)
    qkv = random(seed, num_rows, (num_heads + 2 * num_kv_heads) * head_dim, dtype=dtype)
    angle_type = torch.float32 if full_precision else dtype
    cos, sin = (random(seed + i, num_rows, head_dim // 2, dtype=angle_type) for i in (1, 2))

    def fresh() -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = torch.full((2, 21, num_kv_heads, head_dim), torch.nan, dtype=dtype, device=DEVICE)
        return keys, values

    kept, expected_kept = fresh(), fresh()
    expected = rope_store_reference(qkv.clone(), cos, sin, places, *expected_kept)
    queries = rope_store(qkv.clone(), cos, sin, places, *kept)
    assert_close(queries, expected)
    for ours, theirs in zip(kept, expected_kept, strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan()), "only the rows' own elements are written"
        assert_close(ours, theirs)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that was never written holds NaN, or an id that no vocabulary has."""
    empty = torch.empty

    def poison(*args: Any, **kwargs: Any) -> torch.Tensor:
        made = empty(*args, **kwargs)
        return made.fill_(torch.nan if made.is_floating_point() else -(1 << 30))

    monkeypatch.setattr(torch, "empty", poison)


# (rows, ids): one piece, several, a last piece of one id, and enough rows for long pieces.
LOGIT_SHAPES = [(0, 5), (1, 1), (2, 2), (3, 40), (2, 1024), (3, 1025), (2, 2500), (17, 40), (17, 2049)]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", LOGIT_SHAPES)
@pytest.mark.parametrize("may_sample", [False, True])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
def test_token_stats(shape: tuple[int, int], may_sample: bool, dtype: torch.dtype) -> None:
    num_rows, size = shape
    generator = torch.Generator().manual_seed(num_rows + size)
    # Rows that lie further apart than they are long; few different values, so that many tie.
    wide = (2 * torch.randn(num_rows, size + 3, generator=generator)).to(torch.float16 if size < 50 else dtype)
    logits = wide.to(DEVICE, dtype)[:, :size]
    logits[:, 1::7] = -torch.inf
    for row, bad in ((5, torch.nan), (6, torch.inf), (7, -torch.inf)):
        logits[row : row + 1, size // 2] = bad
    logits[8:9] = -torch.inf
    logits[9:10] = torch.nan
    logits[10:11, -1] = 60.0
    logits[11:12] = 0.0
    index = torch.arange(num_rows)
    arguments: dict[str, Any] = {
        "mask_token_id": size // 2,
        "allow_mask": (index % 2 == 0).to(DEVICE),
        "temperature": torch.where(index % 3 == 0, 0.0, 0.7 * may_sample).double().to(DEVICE),
        "key": torch.randint(-(2**63), 2**63 - 1, (num_rows,), generator=generator).to(DEVICE),
        "may_sample": may_sample,
    }
    with np.errstate(all="ignore"):
        found = token_stats(logits, **arguments)
    expected = token_stats_reference(logits, **arguments)
    finite = ~expected.probability.isnan()
    assert torch.equal(found.token[finite], expected.token[finite])
    assert not len(found.token) or 0 <= int(found.token.min()) <= int(found.token.max()) < size
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("rounding", [torch.float16, torch.bfloat16])
def test_token_stats_of_rounded_logits(rounding: torch.dtype) -> None:
    logits = 3 * random(1, 3, 700, dtype=torch.float32)
    if DEVICE.type == "cpu" and rounding is torch.bfloat16:
        # The interpreter cuts off where a device rounds; values that bfloat16 has are the same either way.
        logits = logits.bfloat16().float()
    rows: dict[str, Any] = {
        "allow_mask": torch.ones(3, dtype=torch.bool, device=DEVICE),
        "may_sample": False,
        "mask_token_id": 0,
    }
    rows |= {"temperature": torch.zeros(3, device=DEVICE).double(), "key": torch.zeros(3, device=DEVICE).long()}
    found = token_stats(logits, **rows, rounding=rounding)
    for ours, theirs in zip(found, token_stats_reference(logits.to(rounding), **rows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", LOGIT_SHAPES)
@pytest.mark.parametrize("change", [0.0, 1e-3, 0.3, 30.0])
def test_kl_from_logits(shape: tuple[int, int], change: float) -> None:
    num_rows, size = shape
    logits, noise = random(2, num_rows, size, dtype=torch.float32), random(3, num_rows, size, dtype=torch.float32)
    # Rows that lie further apart than they are long.
    logits = torch.cat((4 * logits, logits), 1)[:, :size]
    previous = logits + change * noise
    previous[5:6, size // 3] = torch.nan
    logits[6:7, size // 2] = torch.nan
    logits[7:8, size // 2] = torch.inf
    with np.errstate(all="ignore"):
        found = kl_from_logits(logits, previous)
    expected = kl_reference(logits, previous)
    torch.testing.assert_close(found.kl, expected.kl, rtol=1e-5, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(found.uncertainty, expected.uncertainty, rtol=1e-5, atol=1e-12, equal_nan=True)
    assert found.kl.isnan().nonzero().flatten().tolist() == [5, 6, 7][: max(0, num_rows - 5)]
    if change == 0:
        assert found.kl.nan_to_num().tolist() == [0.0] * num_rows
    exact = torch.nn.functional.kl_div(
        previous.double().log_softmax(1), logits.double().log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    near = exact < 1
    assert not near.any() or float((found.kl - exact)[near].abs().max()) < 1e-6


@triton.jit
def functions_kernel(x, key, small, minus_one, log_one_plus, noise):  # type: ignore[no-untyped-def]
    index = tl.arange(0, 1024)
    tl.store(minus_one + index, expm1_series(tl.load(x + index)))
    tl.store(log_one_plus + index, log1p(tl.load(small + index)))
    tl.store(noise + index, gumbel(tl.load(key), index.to(tl.int64)))


@pytest.mark.parametrize("key", [0, -1, 2**63 - 1, -(2**63), 123456789])
def test_functions_inside_kernels(key: int) -> None:
    small = SERIES_LIMIT.value * torch.logspace(-12, 0, 256)
    x = torch.cat((torch.linspace(-SERIES_LIMIT.value, SERIES_LIMIT.value, 512), small, -small)).to(DEVICE)
    small = torch.cat((torch.logspace(-14, 3, 768), -torch.logspace(-14, -1, 256))).double().to(DEVICE)
    minus_one, log_one_plus, noise = torch.empty_like(x), torch.empty_like(small), torch.empty_like(small)
    keys = torch.tensor([key], device=DEVICE)
    functions_kernel[(1,)](x, keys, small, minus_one, log_one_plus, noise)
    torch.testing.assert_close(minus_one.double(), x.double().expm1(), rtol=1e-6, atol=0)
    torch.testing.assert_close(log_one_plus, small.log1p(), rtol=1e-10, atol=0)
    torch.testing.assert_close(noise, gumbel_reference(keys, 1024)[0], rtol=1e-12, atol=1e-14)


def test_every_op_that_is_listed_has_its_twin() -> None:
    listed = {op: import_module(f"surelock.ops.{op}").reference.__name__ for op in TRITON_OPS}
    for op, name in listed.items():
        assert callable(getattr(import_module(f"surelock.ops.{op}.triton"), name))
    folders = {path.parent.name for path in Path(str(surelock.ops.__path__[0])).glob("*/triton.py")}
    # These two only serve the kernels of the others.
    assert folders - {"noise", "special"} == set(TRITON_OPS)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 999),
    # Rows and keys of each span.
    spans=st.lists(st.tuples(st.integers(0, 70), st.sampled_from([1, 3, 64, 65, 130])), min_size=1, max_size=3),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    head_dim=st.sampled_from([8, 12, 16]),
    # The interpreter cannot multiply matrices in bfloat16.
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_row_attention(
    seed: int, spans: list[tuple[int, int]], heads: tuple[int, int], head_dim: int, dtype: torch.dtype
) -> None:
    num_heads, num_kv_heads = heads
    num_rows = sum(rows for rows, _ in spans)
    keys, values = torch.full((2, 600, num_kv_heads, head_dim), torch.nan, dtype=dtype, device=DEVICE)
    row_spans = []
    for i, (rows, num_keys) in enumerate(spans):
        start = 7 + 180 * i
        row_spans.append(RowSpan(start, rows, num_keys))
        for j, pool in enumerate((keys, values)):
            own = random(seed + 2 * i + j, num_keys, num_kv_heads, head_dim, dtype=dtype)
            pool[start : start + num_keys] = own
    # A view into wider rows, as the fused projection gives it.
    queries = random(seed + 9, num_rows, 2 * num_heads * head_dim, dtype=dtype)[:, : num_heads * head_dim]
    queries = queries.view(num_rows, num_heads, head_dim)
    batch = Spans.of(row_spans, DEVICE)
    assert_close(row_attention(queries, keys, values, batch), row_attention_reference(queries, keys, values, batch))


@settings(max_examples=12)
@given(
    seed=st.integers(0, 999),
    length=st.sampled_from([1, 5, 64, 130]),
    levels=st.sampled_from([1, 3, 1000]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    quota=st.lists(st.integers(-2, 140), min_size=1, max_size=3),
)
def test_take_top(seed: int, length: int, levels: int, dtype: torch.dtype, quota: list[int]) -> None:
    # Few levels: many scores are equal, and the leftmost of them go first.
    scores = (random(seed, len(quota), length, dtype=torch.float32) * levels).round().to(dtype)
    candidates = random(seed + 1, len(quota), length, dtype=torch.float32) > 0
    quotas = torch.tensor(quota, device=DEVICE)
    assert torch.equal(take_top(scores, candidates, quotas), take_top_reference(scores, candidates, quotas))


def test_a_cpu_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_fast(torch.device("cpu"))
    called: list[str] = []

    def op(x: torch.Tensor) -> torch.Tensor:
        called.append("reference")
        return x

    choose("never_imported", op)(torch.zeros(1))
    assert called == ["reference"]
