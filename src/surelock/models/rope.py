"""Rotary position embedding by halves. Keys are stored rotated, at absolute positions, so a locked key is final."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """cos and sin [R, head_dim / 2] of R rows, in the type the rotation is computed in."""

    cos: Tensor
    sin: Tensor


class RotaryTable:
    """cos and sin of every position's angles, float32 [length, head_dim / 2].

    Frequencies are theta^(-2i / head_dim), as in RoFormer (arXiv 2104.09864) with the halves rotated, not interleaved.
    """

    def __init__(self, head_dim: int, length: int, theta: float, device: torch.device) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), 1.0 / theta**exponents)
        self.cos = angles.cos()
        self.sin = angles.sin()

    def at(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Rotation of rows at positions [R], computed in `dtype`."""
        return Rotation(self.cos[positions].to(dtype), self.sin[positions].to(dtype))
