"""SureLock's rule (arXiv 2602.06412, Algorithm 1 lines 17-23), with its ambiguities decided in docs/algorithm.md.

Read literally, line 20 follows line 16: a position can lock in the step that unmasks it, which freezes keys and values
computed from [MASK]. Candidates must therefore have been visible for `min_visible_steps` forwards; 0 is literal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from surelock.decoding.canvas import Mask
from surelock.decoding.protocols import LockDecision, LockNumbers, Scores
from surelock.decoding.rowwise import percentile
from surelock.params import GateScope

_CANDIDATES, _ACTIVE, _KL_PASSING = range(len(get_args(GateScope)))


@dataclass(frozen=True, slots=True)
class KLRule:
    """Lock where the posterior stopped moving and, if the gate is on, the model is among the surest."""

    def scored_rows(self, candidates: Mask, rows: Mask, numbers: LockNumbers) -> Mask:
        """Candidates; all rows where the percentile is over the active rows."""
        wide = (numbers.gate_scope == _ACTIVE) & numbers.percentile.isfinite() & candidates.any(1)
        return candidates | (rows & wide.unsqueeze(1))

    def evaluate(self, scores: Scores, candidates: Mask, numbers: LockNumbers) -> LockDecision:
        """See `LockingRule.evaluate`. Candidates are visible already; `kl_both_visible` asks for one forward more."""
        comparable = ~numbers.kl_both_visible.unsqueeze(1) | (scores.age >= 2)
        stable = candidates & comparable & (scores.kl <= numbers.kl_threshold.unsqueeze(1))

        scope = numbers.gate_scope.unsqueeze(1)
        population = torch.where(scope == _ACTIVE, scores.rows, torch.where(scope == _KL_PASSING, stable, candidates))
        limit = percentile(scores.uncertainty, population, numbers.percentile).unsqueeze(1)
        sure = ~numbers.percentile.isfinite().unsqueeze(1) | (scores.uncertainty <= limit)

        due = (numbers.prompt_lock_step > 0) & (scores.step >= numbers.prompt_lock_step)
        by_prompt_rule = candidates & scores.given & due.unsqueeze(1)
        return LockDecision((stable & sure) | by_prompt_rule, (stable & ~sure & ~by_prompt_rule).sum(1))
