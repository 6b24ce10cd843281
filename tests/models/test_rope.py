"""Angles of rotary embeddings: those of the formula, whichever rows are computed together."""

from __future__ import annotations

import pytest
import torch

from surelock.models.rope import RotaryEmbedding

CPU = torch.device("cpu")


@pytest.mark.parametrize("theta", [1e4, 5e5, 1e12])
@pytest.mark.parametrize("head_dim", [2, 6, 64, 128])
def test_angles_do_not_depend_on_other_rows(head_dim: int, theta: float) -> None:
    """In float32, bit for bit: else a token could depend on what it is decoded beside."""
    rotary = RotaryEmbedding(head_dim, theta, CPU)
    together = rotary.at(torch.arange(5000), torch.float32)
    generator = torch.Generator().manual_seed(0)
    for num_rows in (1, 2, 3, 7, 8, 16, 17, 33, 1000):
        positions = torch.randint(0, 5000, (num_rows,), generator=generator)
        alone = rotary.at(positions, torch.float32)
        assert torch.equal(alone.cos, together.cos[positions])
        assert torch.equal(alone.sin, together.sin[positions])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_angles_are_those_of_the_formula(dtype: torch.dtype) -> None:
    positions = torch.tensor([0, 1, 4095])
    frequencies = 1e4 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    angles = torch.outer(positions.to(torch.float64), frequencies)
    found = RotaryEmbedding(8, 1e4, CPU).at(positions, dtype)
    assert found.cos.dtype == found.sin.dtype == dtype
    tolerance = 1e-3 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found.cos.double(), angles.cos(), atol=tolerance, rtol=0)
    torch.testing.assert_close(found.sin.double(), angles.sin(), atol=tolerance, rtol=0)
