"""The gated activation of the feed-forward.

Contract: `swiglu(gate_up [R, 2m]) -> [R, m]` = silu(gate) * up, gate the first m columns and up the last; silu is
rounded to the input's type before the product, as separate operations would. gate_up may be overwritten, and the result
may lie in its memory, so that its rows are not next to each other.
"""

from surelock.ops.dispatch import choose
from surelock.ops.swiglu.reference import swiglu as reference

swiglu = choose("swiglu", reference)

__all__ = ["reference", "swiglu"]
