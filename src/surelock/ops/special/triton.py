"""exp(x) - 1 and log(1 + x) without cancellation. The device's own are not there under Triton's interpreter."""

from __future__ import annotations

import triton
import triton.language as tl

# Beyond it exp(x) - 1 itself loses less than two bits.
SERIES_LIMIT = tl.constexpr(0.35)


@triton.jit
def expm1_series(x):
    """exp(x) - 1 where |x| < SERIES_LIMIT, for a tensor x of float32 or float64.

    A Taylor series of degree 9: what it leaves out is below 1e-10 of the value.
    """
    near = 1 + x * (1 / 9)
    near = 1 + x * near * (1 / 8)
    near = 1 + x * near * (1 / 7)
    near = 1 + x * near * (1 / 6)
    near = 1 + x * near * (1 / 5)
    near = 1 + x * near * (1 / 4)
    near = 1 + x * near * (1 / 3)
    near = 1 + x * near * (1 / 2)
    return x * near


@triton.jit
def log1p(x):
    """log(1 + x) within 1e-11 of the value, for a tensor x of float64."""
    near = x * (1 - x * (0.5 - x * (1 / 3)))
    return tl.where(tl.abs(x) < 1e-4, near, tl.log(1 + x))
