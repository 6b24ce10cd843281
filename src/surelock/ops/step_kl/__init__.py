"""How far posteriors moved since the preceding step.

Contract: `kl_from_logits(logits [n, V], previous [n, V]) -> StepKL(kl [n], uncertainty [n])`, all float32, logits
contiguous along the vocabulary, n may be 0: kl = KL(softmax(logits) || softmax(previous)) in nats, >= 0, below 1 within
1e-6 (1 + m) of float64, where m is how far the top logit moves against the mean of the others, and exactly 0 for equal
logits; uncertainty = 1 - max softmax(logits), formed without subtracting from
1. The vocabulary is read once. A row with NaN or +inf in logits has NaN for both, one with them in previous NaN for
kl. The Triton version asks nothing of the host and can be captured in a CUDA graph.

`step_kl(hidden [n, d], previous [n, d], head) -> StepKL` is the same from hidden rows, with the products with the head
done here in parts, so that stored posteriors are not needed and on a CPU nothing of size n x V is kept.
"""

from surelock.ops.step_kl.from_hidden import kl_from_logits, step_kl
from surelock.ops.step_kl.reference import StepKL
from surelock.ops.step_kl.reference import kl_from_logits as reference

__all__ = ["StepKL", "kl_from_logits", "reference", "step_kl"]
