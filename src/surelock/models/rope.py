"""Rotary position embedding by halves. Keys are stored rotated, at absolute positions, so a locked key is final."""

from __future__ import annotations

import torch
from torch import Tensor


class RotaryTable:
    """cos and sin of every position's angles, float32 [length, head_dim / 2].

    Frequencies are theta^(-2i / head_dim), as in RoFormer (arXiv 2104.09864) with the halves rotated, not interleaved.
    """

    def __init__(self, head_dim: int, length: int, theta: float, device: torch.device) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), 1.0 / theta**exponents)
        self.cos = angles.cos()
        self.sin = angles.sin()

    def rotate(self, x: Tensor, positions: Tensor, *, full_precision: bool) -> Tensor:
        """x [R, heads, head_dim] at positions [R], rotated in float32 (or in x's own type) and returned in x's type."""
        compute = torch.float32 if full_precision else x.dtype
        # [R, 1, head_dim / 2]
        cos = self.cos[positions].to(compute).unsqueeze(1)
        sin = self.sin[positions].to(compute).unsqueeze(1)
        first, second = x.to(compute).chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
