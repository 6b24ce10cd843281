"""Logits of some rows: the language-model head over final hidden rows.

Contract: `rounded_logits(hidden [n, d], head) -> [n, V]` in the model's own type, which is what the official samplers
choose tokens from; `head_logits` is the same in float32. `head_logits_float32` does not round below float32, for the KL
test, in which half-precision logits would drown (docs/algorithm.md, "Noise"); rounded to the model's type it gives
`rounded_logits`, if the head has no scale.
"""

from surelock.ops.head_logits.reference import Head, copies_head, head_logits, head_logits_float32, rounded_logits

__all__ = ["Head", "copies_head", "head_logits", "head_logits_float32", "rounded_logits"]
