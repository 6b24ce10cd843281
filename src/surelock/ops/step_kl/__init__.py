"""How far posteriors moved since the preceding step, from hidden rows instead of stored posteriors.

Contract: `step_kl(hidden [n, d], previous [n, d], head) -> StepKL(kl [n], uncertainty [n])`, float32:
kl = KL(softmax(head(hidden)) || softmax(head(previous))) in nats, >= 0; uncertainty = 1 - max softmax(head(hidden)),
formed without subtracting from 1. The vocabulary is read once in parts, so nothing of size n x V is kept.
"""

from surelock.ops.step_kl.reference import StepKL, step_kl

__all__ = ["StepKL", "step_kl"]
