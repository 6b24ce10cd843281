"""Rotary position embedding by halves. Keys are stored rotated, at absolute positions, so a locked key is final."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """cos and sin [R, head_dim / 2] of R rows, in the type the rotation is computed in."""

    cos: Tensor
    sin: Tensor


class RotaryEmbedding:
    """cos and sin of positions' angles.

    Frequencies are theta^(-2i / head_dim), as in RoFormer (arXiv 2104.09864) with the halves rotated, not interleaved.
    Each forward computes the angles of its rows, once for all layers: no dearer than to look them up, and a table would
    have to be as long as config.json says.
    """

    def __init__(self, head_dim: int, theta: float, device: torch.device) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        self._frequencies = 1.0 / theta**exponents

    def at(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Rotation of rows at positions [R], computed in `dtype` from float32 angles."""
        # Positions stay below 2^24 (schema.MAX_SEQUENCE_LENGTH), so float32 holds each exactly.
        angles = torch.outer(positions.to(torch.float32), self._frequencies)
        return Rotation(angles.cos().to(dtype), angles.sin().to(dtype))
