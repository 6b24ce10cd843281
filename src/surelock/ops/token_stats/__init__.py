"""What the unmasking policies want to know of a row's logits, in one pass over the vocabulary.

Contract: `token_stats(logits [n, V], *, mask_token_id, allow_mask [n] bool, temperature [n] float64, key [n] int64,
may_sample, rounding=None, choice_only=False) -> TokenStats`, tensors [n]:
    token  int64, argmax over ids of logits + temperature * Gumbel noise of the row's key (`ops/noise/`), in float64
        where the temperature is above 0 and without noise elsewhere; of equal values the lowest id; MASK is left out
        unless allow_mask
    probability  of token
    top_probability, second_probability  the largest and second largest; equal where two ids tie, 0 if V is 1
    entropy  in nats, >= 0
All but token are float32 and under the raw softmax over the whole vocabulary: temperature 1, MASK included. 1 - p is
never formed, so nearly certain rows keep their order.

Logits are float32, bfloat16 or float16 and contiguous along the vocabulary; n may be 0. They are first rounded to
`rounding`, if given: float32 logits of a model in bfloat16. may_sample=False is the caller's word that no temperature
is above 0, choice_only=True that only token and probability will be read. -inf at single ids is legal: probability 0.
A row with NaN, +inf or nothing but -inf has some token and NaN for the rest; the engine tells failed rows by that. The
reference keeps float32 copies of some rows at a time, the Triton version nothing of size n x V; that one asks nothing
of the host and can be captured in a CUDA graph.
"""

from surelock.ops.dispatch import choose
from surelock.ops.token_stats.reference import TokenStats
from surelock.ops.token_stats.reference import token_stats as reference

token_stats = choose("token_stats", reference)

__all__ = ["TokenStats", "reference", "token_stats"]
