"""What the dense decoder shows after each step, what its rules see, and the record of a whole run.

Shapes: B canvases of N positions, V token ids, L layers. Steps are counted from 1, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask

NEVER = -1


@dataclass(frozen=True, slots=True)
class KVDrift:
    """How far freshly computed keys and values moved, ||now - then|| / ||then||, float32 [L, B, N] each.

    Under guidance those of the conditional stream.

    Attributes:
        keys_step, values_step: against the fresh ones of the preceding step; NaN on the first step.
        keys_frozen, values_frozen: against those that everybody reads of a locked position; NaN where none is locked.
    """

    keys_step: Tensor
    values_step: Tensor
    keys_frozen: Tensor
    values_frozen: Tensor


@dataclass(frozen=True, slots=True)
class KeysValues:
    """One layer's keys and values [B, N, num_kv_heads, head_dim], keys rotated.

    Attributes:
        keys, values: as every row of this step read them, frozen where locked.
        fresh_keys, fresh_values: as this step computed them, of locked positions too.
    """

    keys: Tensor
    values: Tensor
    fresh_keys: Tensor
    fresh_values: Tensor


class KLState(Protocol):
    """The part of `DenseState` that the engine's own rule reads."""

    @property
    def step(self) -> int: ...
    @property
    def given(self) -> Mask: ...
    @property
    def locked(self) -> Mask: ...
    @property
    def candidates(self) -> Mask: ...
    @property
    def age(self) -> Tensor: ...
    @property
    def kl(self) -> Tensor: ...
    @property
    def uncertainty(self) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class DenseState:
    """What a rule sees, [B, N] unless said otherwise.

    A locking or unlocking rule sees it after the step's tokens were committed. A refresh rule sees it before the
    forward of `step`; what is measured there is of the preceding step.

    Attributes:
        step, num_steps: 1-based, and how many there will be.
        tokens: int64, MASK where masked.
        masked, given: bool; given positions are the prompt's.
        locked: bool. `locked_at`: int32, the step that locked it, 0 where it is not locked.
        candidates: bool, positions a locking rule may lock: unmasked (also in this step) and not locked.
        age: int32, forwards that have had the real token as input; 0 for what was committed in this step.
        kl: float32, KL(p_t || p_{t-1}) in nats; +inf where a locked run would have no posterior of the preceding step.
        uncertainty: float32, 1 - max p_t.
        logits: float32 [B, N, V].
        drift: if the decoder measures it.
    """

    step: int
    num_steps: int
    tokens: Tensor
    masked: Mask
    given: Mask
    locked: Mask
    locked_at: Tensor
    candidates: Mask
    age: Tensor
    kl: Tensor
    uncertainty: Tensor
    logits: Tensor
    drift: KVDrift | None = None


StateRule = Callable[[DenseState], Mask]


@dataclass(frozen=True, slots=True)
class DenseStep:
    """One step of B canvases, every position measured. [B, N] unless said otherwise; nothing is overwritten later.

    A locked position is computed too, from the canvas as the locked run sees it: its logits are what it would say now.
    Nobody reads its fresh keys and values, so every other position has exactly the logits of a locked run.

    Attributes:
        step, num_steps: 1-based, and how many there will be.
        hidden: [B, N, d], in the model's type: the final hidden rows, which the head makes `logits` of.
        logits: float32 [B, N, V], guided if asked; raw otherwise.
        kl: float32, KL(p_t || p_{t-1}) in nats of every position, locked or not; +inf on the first step.
        uncertainty: float32, 1 - max p_t.
        argmax: int64, the likeliest id other than MASK (MASK too under `allow_mask`).
        confidence: float32, the raw probability of `argmax`.
        inputs: int64, the tokens the forward read. `tokens`: after this step's commits.
        masked: bool, before this step's commits: rows of [MASK] in the forward.
        committed: bool, got their token in this step.
        locked: bool, frozen in this step's forward. `newly_locked`: bool, from the next step on.
        refreshed: bool, locked, but computed in this step anew. `unlocked`: bool, active again from the next step on.
        age: int32, forwards that have had the real token as input, this one included. Of a newly locked position it is
            the age at lock: 0 is a ghost, whose keys and values are those of [MASK].
        num_active: int64 [B], rows a locked run computes in this step.
        drift: if asked for. `keys_values`: if asked for, one for each layer (conditional stream only).
    """

    step: int
    num_steps: int
    hidden: Tensor
    logits: Tensor
    kl: Tensor
    uncertainty: Tensor
    argmax: Tensor
    confidence: Tensor
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
    keys_values: tuple[KeysValues, ...] | None


@dataclass(frozen=True, slots=True)
class Record:
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
    """Builds the `Record` of a run from its steps."""

    def __init__(self) -> None:
        self._num_active: list[Tensor] = []
        self._tokens: Tensor | None = None
        self._committed_at: Tensor | None = None
        self._locked_at: Tensor | None = None
        self._age_at_lock: Tensor | None = None

    def add(self, step: DenseStep) -> None:
        """Note one step; they come in order."""
        if self._committed_at is None or self._locked_at is None or self._age_at_lock is None:
            self._committed_at = torch.where(step.masked, NEVER, 0).int()
            self._locked_at = torch.zeros_like(self._committed_at)
            self._age_at_lock = torch.full_like(self._committed_at, NEVER)
        self._tokens = step.tokens
        self._committed_at = torch.where(step.committed, step.step, self._committed_at).int()
        self._locked_at = torch.where(step.newly_locked, step.step, self._locked_at).int()
        self._locked_at = torch.where(step.unlocked, 0, self._locked_at).int()
        self._age_at_lock = torch.where(step.newly_locked, step.age, self._age_at_lock).int()
        self._age_at_lock = torch.where(step.unlocked, NEVER, self._age_at_lock).int()
        self._num_active.append(step.num_active)

    def record(self) -> Record:
        """Of the steps so far; at least one."""
        assert self._tokens is not None
        assert self._committed_at is not None
        assert self._locked_at is not None
        assert self._age_at_lock is not None
        return Record(
            self._tokens, self._committed_at, self._locked_at, self._age_at_lock, torch.stack(self._num_active)
        )


def record(steps: Iterable[DenseStep]) -> Record:
    """The record of a run that nobody else watches."""
    recorder = Recorder()
    for step in steps:
        recorder.add(step)
    return recorder.record()


@dataclass(frozen=True, slots=True)
class RefreshEvery:
    """Compute every locked position anew in each step that is a multiple of `period`."""

    period: int

    def __call__(self, state: DenseState) -> Mask:
        """Positions to compute."""
        return state.locked if state.step % self.period == 0 else torch.zeros_like(state.locked)


@dataclass(frozen=True, slots=True)
class ScriptedLocks:
    """Lock what another run locked, at the same steps: locked_at int32 [B, N], 0 = never."""

    locked_at: Tensor

    def __call__(self, state: DenseState) -> Mask:
        """Positions to lock."""
        return self.locked_at == state.step
