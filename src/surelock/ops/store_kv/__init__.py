"""Write the keys and values of computed rows into their slots, in place. Locking is the absence of this write.

Contract: `store_kv(buffer [num_slots, length, heads, head_dim], slots [R], positions [R], rows [R, heads, head_dim])`
overwrites buffer[slots, positions]; every other element keeps its value. (slot, position) pairs are distinct.
"""

from surelock.ops.store_kv.reference import store_kv

__all__ = ["store_kv"]
