"""Every Triton kernel against its reference on small ragged shapes: interpreted on a CPU, compiled on a GPU.

`python -m pytest tests/ops/test_triton.py` picks the device by itself.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surelock.ops.add_norm import reference as add_norm_reference
from surelock.ops.dispatch import choose, is_fast
from surelock.ops.rope_store import reference as rope_store_reference
from surelock.ops.swiglu import reference as swiglu_reference

pytest.importorskip("triton", reason="Triton has no build for this platform")

from surelock.ops.add_norm.triton import add_norm
from surelock.ops.rope_store.triton import rope_store
from surelock.ops.swiglu.triton import swiglu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16]
dtypes = st.sampled_from(DTYPES)
rows = st.sampled_from([0, 1, 2, 5])


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal within rounding. The interpreter truncates to bfloat16 where a device rounds: one more unit each time."""
    half = theirs.dtype is torch.bfloat16
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


def test_a_cpu_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_fast(torch.device("cpu"))
    called: list[str] = []

    def op(x: torch.Tensor) -> torch.Tensor:
        called.append("reference")
        return x

    choose("never_imported", op)(torch.zeros(1))
    assert called == ["reference"]
