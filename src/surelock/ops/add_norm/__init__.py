"""Residual addition and root-mean-square norm in one pass.

Contract: `add_norm(x [R, d], delta [R, d] or None, weight [d], eps) -> (normed [R, d], total [R, d])` with
total = x + delta in x's type and normed = weight * (total / rms(total)), the norm in float32 and cast back before the
weight is applied, as LLaDA does. x may be returned as total.
"""

from surelock.ops.add_norm.reference import add_norm as reference
from surelock.ops.dispatch import choose

add_norm = choose("add_norm", reference)

__all__ = ["add_norm", "reference"]
