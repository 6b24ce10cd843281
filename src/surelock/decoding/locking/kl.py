"""SureLock's rule (arXiv 2602.06412, Algorithm 1 lines 17-23), with its ambiguities decided in docs/algorithm.md.

Read literally, line 20 follows line 16: a position can lock in the step that unmasks it, which freezes keys and values
computed from [MASK]. Candidates must therefore have been visible for `min_visible_steps` forwards; 0 is literal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from surelock.decoding.canvases import Mask
from surelock.decoding.protocols import GateScopeCode, LockDecision, LockNumbers, LockView, Scores
from surelock.decoding.slotwise import percentile


@dataclass(frozen=True, slots=True)
class KLRule:
    """Lock where the posterior stopped moving and, if the gate is on, the model is among the surest."""

    needs_scores: bool = True

    def evaluate(self, view: LockView, numbers: LockNumbers, measure: Callable[[Mask], Scores]) -> LockDecision:
        """See `LockingRule.evaluate`. `kl_both_visible` asks for one visible forward more than being a candidate."""
        candidates = view.candidates
        comparable = candidates & (~numbers.kl_both_visible.unsqueeze(1) | (view.age >= 2))
        due = (numbers.prompt_lock_step > 0) & (view.step >= numbers.prompt_lock_step)
        by_prompt_rule = candidates & view.given & due.unsqueeze(1)

        # Only rows whose divergence decides something; but a percentile needs its population.
        wanted = comparable & ~by_prompt_rule
        if not numbers.has_gate:
            scores = measure(wanted)
            stable = comparable & (scores.kl <= numbers.kl_threshold.unsqueeze(1))
            return LockDecision(stable | by_prompt_rule, torch.zeros_like(view.step))

        gated = numbers.percentile.isfinite().unsqueeze(1)
        scope = numbers.gate_scope.unsqueeze(1)
        everything = torch.where(scope == GateScopeCode.ACTIVE, view.rows & candidates.any(1, keepdim=True), candidates)
        scores = measure(torch.where(gated, everything, wanted))
        stable = comparable & (scores.kl <= numbers.kl_threshold.unsqueeze(1))
        population = torch.where(scope == GateScopeCode.KL_PASSING, stable, everything)
        # A row that the step before left out has no scores.
        population &= scores.uncertainty.isfinite()
        limit = percentile(scores.uncertainty, population, numbers.percentile).unsqueeze(1)
        sure = ~gated | (scores.uncertainty <= limit)
        return LockDecision((stable & sure) | by_prompt_rule, (stable & ~sure & ~by_prompt_rule).sum(1))
