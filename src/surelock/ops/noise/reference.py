"""Plain PyTorch, in wrapping int64 arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
MIX_2 = 0x94D049BB133111EB - (1 << 64)


def mix(z: Tensor) -> Tensor:
    """The finaliser, on int64 of any shape."""
    z = (z ^ _shift(z, 30)) * MIX_1
    z = (z ^ _shift(z, 27)) * MIX_2
    return z ^ _shift(z, 31)


def uniform(key: Tensor, num: int) -> Tensor:
    """float64 [n, num] in the open interval (0, 1), for key int64 [n]."""
    counter = torch.arange(1, num + 1, dtype=torch.int64, device=key.device)
    bits = mix(key.unsqueeze(1) + counter * GOLDEN)
    # The top 53 bits, moved to the middle of their interval: never 0, never 1.
    return ((bits >> 11) & ((1 << 53) - 1)).double().add_(0.5).mul_(2.0**-53)


def gumbel(key: Tensor, num: int) -> Tensor:
    """float64 [n, num] standard Gumbel noise. Half precision would cut its tail (arXiv 2409.02908)."""
    return uniform(key, num).log_().neg_().log_().neg_()


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
