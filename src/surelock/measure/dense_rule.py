"""The engine's own locking rule over dense states, so that what is measured is decided by the code that decodes."""

from __future__ import annotations

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask
from surelock.decoding.locking.kl import KLRule
from surelock.decoding.protocols import GateScopeCode, LockNumbers, LockView, Scores
from surelock.measure.dense_state import KLState
from surelock.params import LockParams


def lock_by_kl(state: KLState, numbers: LockNumbers) -> Mask:
    """Positions [B, N] that the engine's own rule locks."""
    candidates = state.candidates & (state.age >= numbers.min_visible_steps.unsqueeze(1))
    step = torch.full((len(candidates),), state.step, device=candidates.device)
    view = LockView(candidates, ~state.locked, state.age, state.given, step)
    return KLRule().evaluate(view, numbers, lambda where: Scores(state.kl, state.uncertainty)).locked


def lock_numbers(lock: LockParams, num: int, device: torch.device) -> LockNumbers:
    """What `lock_by_kl` asks for: the same numbers for each of num canvases."""

    def real(value: float) -> Tensor:
        return torch.full((num,), value, dtype=torch.float64, device=device)

    def integer(value: int) -> Tensor:
        return torch.full((num,), value, dtype=torch.int64, device=device)

    percentile = lock.confidence_percentile
    return LockNumbers(
        kl_threshold=real(lock.kl_threshold),
        percentile=real(torch.nan if percentile is None else percentile),
        gate_scope=integer(GateScopeCode[lock.gate_scope.upper()]),
        min_visible_steps=integer(lock.min_visible_steps),
        kl_both_visible=integer(lock.kl_both_visible) != 0,
        prompt_lock_step=integer(lock.prompt_lock_step or 0),
        refresh=integer(lock.refresh or 0),
        has_gate=percentile is not None,
    )
