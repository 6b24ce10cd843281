"""The same numbers inside a kernel: bit for bit up to the logarithms, which are float64."""

from __future__ import annotations

import triton
import triton.language as tl

from surelock.ops.noise import reference

GOLDEN = tl.constexpr(reference.GOLDEN)
MIX_1 = tl.constexpr(reference.MIX_1)
MIX_2 = tl.constexpr(reference.MIX_2)


@triton.jit
def _shift(z, BITS: tl.constexpr):
    """Logical right shift of int64: its own keeps the sign."""
    return (z >> BITS) & ((1 << (64 - BITS)) - 1)


@triton.jit
def mix(z):
    """The finaliser, on int64."""
    z = (z ^ _shift(z, 30)) * MIX_1
    z = (z ^ _shift(z, 27)) * MIX_2
    return z ^ _shift(z, 31)


@triton.jit
def gumbel(key, index):
    """Element `index` of the row of standard Gumbel noise with this key, both int64; float64."""
    bits = (mix(key + (index + 1) * GOLDEN) >> 11) & ((1 << 53) - 1)
    return -tl.log(-tl.log((bits.to(tl.float64) + 0.5) * 1.1102230246251565e-16))
