"""What the instrumented decoder shows after each step, what its rules see, and the record of a whole run.

Shapes: B canvases of N positions, V token ids, L layers. Steps are counted from 1, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask

if TYPE_CHECKING:
    from surelock.measure.instrumented.forward import CanvasKV

NEVER = -1


@dataclass(frozen=True, slots=True)
class KVDrift:
    """How far freshly computed keys and values moved, ||now - then|| / ||then||, float32 [L, B, N] each.

    Under guidance these are those of the conditional stream.

    Attributes:
        keys_step, values_step: against the fresh ones of the preceding step; NaN on the first step.
        keys_frozen, values_frozen: against those that other rows read of a locked position; NaN where none is locked.
    """

    keys_step: Tensor
    values_step: Tensor
    keys_frozen: Tensor
    values_frozen: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class KLState:
    """The part of a state that the engine's own rule reads, [B, N] unless said otherwise.

    Attributes:
        step: 1-based.
        given: bool, the prompt's positions. `locked`: bool.
        candidates: bool, positions a locking rule may lock: unmasked (also in this step) and not locked.
        age: int32, times it was computed with its real token as input; 0 for what was committed in this step.
        kl: float32, KL(p_t || p_{t-1}) in nats; +inf where a locked run would have no posterior of the preceding step.
        uncertainty: float32, 1 - max p_t.
    """

    step: int
    given: Mask
    locked: Mask
    candidates: Mask
    age: Tensor
    kl: Tensor
    uncertainty: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredState(KLState):
    """What a rule sees.

    A locking or unlocking rule sees it after the step's tokens were committed. A refresh rule sees it before the
    forward of `step`; what is measured there is of the preceding step.

    Attributes:
        num_steps: how many there will be.
        tokens: int64, MASK where masked. `masked`: bool.
        locked_at: int32, the step that locked it, 0 where it is not locked.
        logits: float32 [B, N, V].
        drift: if the decoder measures it.
    """

    num_steps: int
    tokens: Tensor
    masked: Mask
    locked_at: Tensor
    logits: Tensor
    drift: KVDrift | None = None


StateRule = Callable[[MeasuredState], Mask]


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """One step of B canvases, every position measured. [B, N] unless said otherwise; nothing is overwritten later.

    A locked position is computed too, from the canvas as the locked run sees it: its logits are what it would say now.
    No row reads its fresh keys and values, so every other position has exactly the logits of a locked run.

    Attributes:
        step, num_steps: 1-based, and how many there will be.
        hidden: [B, N, d], in the model's type: the final hidden rows, which the head makes `logits` of.
        logits: float32 [B, N, V], guided if asked; raw otherwise.
        kl: float32, KL(p_t || p_{t-1}) in nats of every position, locked or not; +inf on the first step.
        uncertainty: float32, 1 - max p_t.
        argmax: int64, the likeliest id other than MASK (MASK too under `allow_mask`).
        inputs: int64, the tokens the forward read. `tokens`: after this step's commits.
        masked: bool, before this step's commits: rows of [MASK] in the forward.
        committed: bool, got their token in this step.
        locked: bool, frozen in this step's forward. `newly_locked`: bool, from the next step on.
        refreshed: bool, locked, but computed in this step anew. `unlocked`: bool, active again from the next step on.
        age: int32, times the locked run has computed the position with its real token as input, this step included. Of
            a newly locked position it is the age at lock: 0 is a ghost, whose keys and values are those of [MASK].
        num_active: int64 [B], rows a locked run computes in this step.
        drift: if asked for.
        kv, fresh_kv: if asked for, keys and values of each layer as the rows read them, and as this step computed them
            (conditional stream only).
    """

    step: int
    num_steps: int
    hidden: Tensor
    logits: Tensor
    kl: Tensor
    uncertainty: Tensor
    argmax: Tensor
    inputs: Tensor
    tokens: Tensor
    masked: Mask
    committed: Mask
    locked: Mask
    newly_locked: Mask
    refreshed: Mask
    unlocked: Mask
    age: Tensor
    num_active: Tensor
    drift: KVDrift | None
    kv: list[CanvasKV] | None
    fresh_kv: list[CanvasKV] | None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run decided. [B, N] unless said otherwise.

    Attributes:
        tokens: int64, the final canvas.
        committed_at: int32, step that committed the token; 0 for given positions, -1 (NEVER) where still masked.
        locked_at: int32, step that last locked the position; 0 = never, or unlocked since.
        age_at_lock: int32, forwards with the real token before that lock, 0 = ghost; -1 (NEVER) where not locked.
        num_active: int64 [T, B], rows a locked run computes in each step.
    """

    tokens: Tensor
    committed_at: Tensor
    locked_at: Tensor
    age_at_lock: Tensor
    num_active: Tensor

    @property
    def active_ratio(self) -> Tensor:
        """Mean active rows over all rows of each canvas, float64 [B]."""
        return self.num_active.double().mean(0) / self.tokens.shape[1]


class Recorder:
    """Builds the `RunRecord` of a run from its steps."""

    def __init__(self) -> None:
        self._record: RunRecord | None = None
        self._num_active: list[Tensor] = []

    def add(self, step: MeasuredStep) -> None:
        """Note one step; they come in order."""
        self._num_active.append(step.num_active)
        nothing = torch.zeros_like(step.age)
        last = self._record or RunRecord(
            step.tokens, torch.where(step.masked, NEVER, 0), nothing, nothing + NEVER, nothing
        )
        now, new, gone = step.step, step.newly_locked, step.unlocked
        self._record = RunRecord(
            tokens=step.tokens,
            committed_at=torch.where(step.committed, now, last.committed_at).int(),
            locked_at=torch.where(new, now, torch.where(gone, 0, last.locked_at)).int(),
            age_at_lock=torch.where(new, step.age, torch.where(gone, NEVER, last.age_at_lock)).int(),
            num_active=nothing,
        )

    def record(self) -> RunRecord:
        """The record of the steps so far, at least one."""
        assert self._record is not None
        return replace(self._record, num_active=torch.stack(self._num_active))


def record(steps: Iterable[MeasuredStep]) -> RunRecord:
    """The record of a run of which only that is wanted."""
    recorder = Recorder()
    for step in steps:
        recorder.add(step)
    return recorder.record()


@dataclass(frozen=True, slots=True)
class RefreshEvery:
    """Compute every locked position anew in each step that is a multiple of `period`."""

    period: int

    def __call__(self, state: MeasuredState) -> Mask:
        """Positions to compute."""
        return state.locked if state.step % self.period == 0 else torch.zeros_like(state.locked)
