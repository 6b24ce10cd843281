"""Runs with and without locks side by side, over the same tokens in every step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask
from surelock.errors import ParameterError
from surelock.measure.instrumented import InstrumentedDecoder, MeasuredStep
from surelock.measure.instrumented.forward import CanvasKV, Frozen, forward_canvases
from surelock.measure.posteriors import logits_of
from surelock.models.transformer import Transformer
from surelock.params import LockParams, SamplingParams


@dataclass(frozen=True, slots=True)
class Locks:
    """The positions locked so far, [B, N] each.

    Attributes:
        at: int32, the step that locked it, 0 where none did.
        age: int32, forwards it had been through with its token by then; 0 of a generated position: a ghost.
        kl, uncertainty: float32, of its posterior in that step.
    """

    at: Tensor
    age: Tensor
    kl: Tensor
    uncertainty: Tensor

    def after(self, step: MeasuredStep) -> Locks:
        """These locks and those of a step."""
        now = step.newly_locked
        return Locks(
            torch.where(now, step.step, self.at).int(),
            torch.where(now, step.age, self.age).int(),
            torch.where(now, step.kl, self.kl),
            torch.where(now, step.uncertainty, self.uncertainty),
        )

    @classmethod
    def none(cls, like: Tensor) -> Locks:
        """Nothing is locked on canvases like this [B, N]."""
        nothing, unknown = torch.zeros_like(like, dtype=torch.int32), torch.full(like.shape, torch.nan)
        unknown = unknown.to(like.device)
        return cls(nothing, nothing - 1, unknown, unknown)


@dataclass(frozen=True, slots=True)
class LockedSide:
    """A locked run in one step.

    Attributes:
        step: what it did.
        locks: those before this step, which are at step.locked.
    """

    step: MeasuredStep
    locks: Locks

    @property
    def frozen(self) -> Mask:
        """[B, N], positions whose keys and values were frozen in this step's forward: locked, and not refreshed."""
        return self.step.locked & ~self.step.refreshed

    @property
    def kv(self) -> list[CanvasKV]:
        """Keys and values of every layer, as every row of this step read them."""
        assert self.step.kv is not None
        return self.step.kv

    @property
    def since(self) -> Tensor:
        """[B, N] int64, steps since the lock: 1 in the first forward that read the frozen keys and values."""
        return self.step.step - self.locks.at.long()


@dataclass(frozen=True, slots=True)
class ForcedStep:
    """One step of every run, all of which read the same tokens. [B, N] unless said otherwise.

    Attributes:
        model: the weights.
        step: 1-based, of num_steps.
        inputs: what every forward of this step read. `tokens`: after the step.
        masked: rows of [MASK] in it. `given`: the prompt. `committed`: unmasked by the step.
        fresh_logits: [B, N, V] with nothing frozen.
        fresh_kv: keys and values of every layer with nothing frozen.
        sides: each locked run by its name.
    """

    model: Transformer
    step: int
    num_steps: int
    inputs: Tensor
    tokens: Tensor
    masked: Mask
    given: Mask
    committed: Mask
    fresh_logits: Tensor
    fresh_kv: list[CanvasKV]
    sides: Mapping[str, LockedSide]

    def logits_with(self, frozen: Frozen) -> Tensor:
        """Logits [n, V] of this step's masked rows had only this been frozen."""
        return logits_of(self.model, forward_canvases(self.model, self.inputs, frozen).hidden[self.masked])


def teacher_forced(
    model: Transformer, prompts: Sequence[Sequence[int]], params: SamplingParams, rules: Mapping[str, LockParams]
) -> Iterator[ForcedStep]:
    """Decode prompts of one length without locks, and let a locked run for each rule repeat every unmasking decision.

    params.lock is not used. Raises as `InstrumentedDecoder.steps`.
    """
    plain = replace(params, lock=None)
    record = InstrumentedDecoder(model).run(prompts, plain)
    decoder = InstrumentedDecoder(model, keep_keys_values=True)
    runs = {name: decoder.steps(prompts, replace(params, lock=lock), forced=record) for name, lock in rules.items()}
    locks = dict.fromkeys(rules, Locks.none(record.tokens))
    for fresh in decoder.steps(prompts, plain):
        assert fresh.kv is not None
        steps = {name: next(run) for name, run in runs.items()}
        sides = {name: LockedSide(step, locks[name]) for name, step in steps.items()}
        yield _paired(model, fresh, record.committed_at == 0, fresh.logits, fresh.kv, sides)
        locks = {name: locks[name].after(step) for name, step in steps.items()}


def self_paced(
    model: Transformer, canvases: Sequence[Sequence[int | None]], params: SamplingParams, *, name: str = "locked"
) -> Iterator[ForcedStep]:
    """A locked run that makes its own decisions, beside a forward of its own canvas with nothing frozen.

    Raises as `InstrumentedDecoder.steps`; ParameterError also for a cfg_scale or a temperature.
    """
    if params.cfg_scale > 0 or params.temperature > 0:
        raise ParameterError("locks are explained at temperature 0 and without guidance; leave both as they are")
    locks: Locks | None = None
    given: Mask | None = None
    for step in InstrumentedDecoder(model, keep_keys_values=True).steps(canvases, params):
        given = ~step.masked if given is None else given
        locks = locks or Locks.none(step.inputs)
        hidden, kv, _ = forward_canvases(model, step.inputs)
        yield _paired(model, step, given, logits_of(model, hidden), kv, {name: LockedSide(step, locks)})
        locks = locks.after(step)


def _paired(
    model: Transformer, own: MeasuredStep, given: Mask, logits: Tensor, kv: list[CanvasKV],
    sides: Mapping[str, LockedSide],
) -> ForcedStep:  # fmt: skip
    return ForcedStep(
        model, own.step, own.num_steps, own.inputs, own.tokens, own.masked, given, own.committed, logits, kv, sides
    )
