"""Random numbers that are a function of (seed, step, position), so a text never depends on its batch mates.

A counter-based generator: the SplitMix64 finaliser (Steele, Lea and Flood, OOPSLA 2014) over the mixed key and the
counter, in wrapping int64 arithmetic. The same numbers come out on every device.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


class Purpose(IntEnum):
    """Keeps the streams of different uses apart."""

    TOKEN = 1
    ORDER = 2


def uniform(seed: Tensor, step: Tensor, position: Tensor, num: int, purpose: Purpose) -> Tensor:
    """float64 [n, num] in the open interval (0, 1), for seed, step, position int64 [n]."""
    key = _mix(_mix(seed) + int(purpose))
    key = _mix(key + step)
    key = _mix(key + position)
    counter = torch.arange(1, num + 1, dtype=torch.int64, device=seed.device)
    bits = _mix(key.unsqueeze(1) + counter * _GOLDEN)
    # The top 53 bits, moved to the middle of their interval: never 0, never 1.
    return ((bits >> 11) & ((1 << 53) - 1)).double().add_(0.5).mul_(2.0**-53)


def gumbel(seed: Tensor, step: Tensor, position: Tensor, num: int) -> Tensor:
    """float64 [n, num] standard Gumbel noise. Half precision would cut its tail (arXiv 2409.02908)."""
    return uniform(seed, step, position, num, Purpose.TOKEN).log_().neg_().log_().neg_()


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
