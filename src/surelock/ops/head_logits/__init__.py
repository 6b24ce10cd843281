"""Logits of some rows: the language-model head over final hidden rows.

Contract: `head_logits(hidden [n, d], head) -> [n, V]`, float32, in the rounding of the model's own type (that is what
the official samplers choose tokens from); `head_logits_float32` multiplies in float32, for the KL test, in which
half-precision logits would drown (docs/algorithm.md, "Noise").
"""

from surelock.ops.head_logits.reference import Head, copies_head, head_logits, head_logits_float32

__all__ = ["Head", "copies_head", "head_logits", "head_logits_float32"]
