"""The highest-scoring candidates of each slot.

Contract: `take_top(scores [S, L] float, candidates [S, L] bool, quota [S] int64) -> bool [S, L]`: of each slot the
quota candidates with the largest scores, of equal scores the leftmost; all of them where there are no more. Scores of
candidates are not NaN. The Triton version compares every candidate with every other: nothing is sorted or stored.
"""

from surelock.ops.dispatch import choose
from surelock.ops.take_top.reference import take_top as reference

take_top = choose("take_top", reference)

__all__ = ["reference", "take_top"]
