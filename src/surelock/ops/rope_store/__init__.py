"""Rotate queries and keys, and write keys and values to their places in the pool. Locking is the absence of this write.

Contract: `rope_store(qkv [R, (H + 2 H_kv) D], cos [R, D / 2], sin, places [R], keys, values)` gives the rotated queries
[R, H, D]; keys and values are [num_places, H_kv, D]. The three parts of qkv lie side by side, heads-major. Halves of
queries and keys are rotated, in the type of cos and sin. keys[places] gets the rotated keys, values[places] the values;
every other element keeps what it has. Places are distinct, but for rows that pad. qkv may be overwritten.
"""

from surelock.ops.dispatch import choose
from surelock.ops.rope_store.reference import rope_store as reference
from surelock.ops.rope_store.reference import rotate

rope_store = choose("rope_store", reference)

__all__ = ["reference", "rope_store", "rotate"]
