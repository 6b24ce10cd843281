"""Random numbers that are a function of (seed, step, position), so a text never depends on its batch mates.

The key of a row is mixed here from what the row is; the numbers of a key are those of `ops/noise/`, the same on every
device.
"""

from __future__ import annotations

from enum import IntEnum

from torch import Tensor

from surelock.ops import noise


class Purpose(IntEnum):
    """Keeps the streams of different uses apart."""

    TOKEN = 1
    ORDER = 2


def row_key(seed: Tensor, step: Tensor, position: Tensor, purpose: Purpose) -> Tensor:
    """Key int64 [n] of the random numbers of rows with seed, step, position int64 [n]."""
    key = noise.mix(noise.mix(seed) + int(purpose))
    key = noise.mix(key + step)
    return noise.mix(key + position)


def uniform(seed: Tensor, step: Tensor, position: Tensor, num: int, purpose: Purpose) -> Tensor:
    """float64 [n, num] in the open interval (0, 1), for seed, step, position int64 [n]."""
    return noise.uniform(row_key(seed, step, position, purpose), num)


def gumbel(seed: Tensor, step: Tensor, position: Tensor, num: int) -> Tensor:
    """float64 [n, num] standard Gumbel noise, for seed, step, position int64 [n]."""
    return noise.gumbel(row_key(seed, step, position, Purpose.TOKEN), num)
