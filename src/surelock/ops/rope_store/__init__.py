"""Rotate queries and keys, and write keys and values into their slots, in place. Locking is the absence of this write.

Contract: `rope_store(qkv [R, (H + 2 H_kv) D], cos [R, D / 2], sin, positions [R], slots [R], keys, values)` gives the
rotated queries [R, H, D]; keys and values are [num_slots, length, H_kv, D]. The three parts of qkv lie side by side,
heads-major. Halves of queries and keys are rotated, in the type of cos and sin. keys[slots, positions] gets the rotated
keys, values[slots, positions] the values; every other element keeps what it has. (slot, position) pairs are distinct,
but for rows that pad. qkv may be overwritten.
"""

from surelock.ops.dispatch import choose
from surelock.ops.rope_store.reference import rope_store as reference
from surelock.ops.rope_store.reference import rotate

rope_store = choose("rope_store", reference)

__all__ = ["reference", "rope_store", "rotate"]
