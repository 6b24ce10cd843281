"""Which locks changed what a row proposes, measured by setting locks free one at a time, then in groups.

A lock causes a flipped row if, in the forward of that very step and with all other locks frozen as they were, computing
its keys and values afresh gives the row back the token it would propose with nothing frozen. Where no single lock does,
locks are set free together, those that help most on their own first, and the smallest group tried that restores the
token is the cause. Setting all of them free restores it by construction. The same is asked of the choice of the
position that is unmasked first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask
from surelock.measure.forced.lockstep import ForcedStep
from surelock.measure.instrumented.forward import CanvasKV, Frozen, forward_canvases, relative_change
from surelock.measure.posteriors import compare, logits_of
from surelock.models.transformer import Transformer

# Positions of one forward of several variants of a canvas, and logits of it that are kept.
ROWS = 2048
CUDA_ROWS = 1 << 14
LOGITS = 1 << 27
# Sizes of group tried between the largest that failed and the smallest that restored.
NUM_BISECTED = 7
# Locks set free one at a time unless told otherwise.
MAX_LOCKS = 64


@dataclass(frozen=True, slots=True)
class LockedCanvas:
    """One canvas in one step of a locked run.

    Attributes:
        model: the weights.
        step: 1-based.
        inputs: [N], what the forward read. `masked`, `frozen`: [N].
        kv, fresh_kv: of every layer [1, N, heads, head_dim], as the rows read them and with nothing frozen.
        logits, fresh_logits: [N, V], with the locks and with nothing frozen.
        locked_at: [N], step that locked the position.
    """

    model: Transformer
    step: int
    inputs: Tensor
    masked: Mask
    frozen: Mask
    kv: list[CanvasKV]
    fresh_kv: list[CanvasKV]
    logits: Tensor
    fresh_logits: Tensor
    locked_at: Tensor

    @classmethod
    def of(cls, step: ForcedStep, name: str, index: int) -> LockedCanvas:
        """Canvas `index` of a step of the run `name`."""
        side = step.sides[name]

        def cut(kv: Sequence[CanvasKV]) -> list[CanvasKV]:
            return [CanvasKV(*(part[index : index + 1] for part in layer)) for layer in kv]

        return cls(
            step.model, step.step, step.inputs[index], step.masked[index], side.frozen[index], cut(side.kv),
            cut(step.fresh_kv), side.step.logits[index], step.fresh_logits[index], side.locks.at[index],
        )  # fmt: skip

    @property
    def mask_token_id(self) -> int:
        """The model's [MASK]."""
        return self.model.config.mask_token_id

    def drift(self) -> Tensor:
        """[num_layers, 2, N]: |frozen - fresh| / |fresh| of keys and of values, over all heads together."""
        return relative_change(self.kv, self.fresh_kv)[:, :, 0]

    def variants(self, freed: Mask, rows: Tensor) -> Iterator[Tensor]:
        """Logits [c, R, V] of rows [R] with the locks in each of `freed` [C, N] set free, some variants at a time."""
        limit = (CUDA_ROWS if self.inputs.is_cuda else ROWS) // len(self.inputs)
        limit = min(limit, LOGITS // (self.logits.shape[1] * max(1, len(rows))))
        for part in torch.split(freed, max(1, limit)):
            frozen = Frozen(self.frozen & ~part, self.kv)
            hidden = forward_canvases(self.model, self.inputs.expand(len(part), -1), frozen).hidden
            yield logits_of(self.model, hidden[:, rows])


@dataclass(frozen=True, slots=True)
class LockEffect:
    """What one lock does to the masked rows of one step.

    Attributes:
        position: of the lock.
        harm: nats by which the divergence of the masked rows, summed, falls when this lock alone is set free.
    """

    position: int
    harm: float


@dataclass(frozen=True, slots=True)
class Causes:
    """The locks that a decision goes back to.

    Attributes:
        locks: their positions, the worst first. Empty if there is none: rounding.
        alone: whether each of them restores the decision on its own; otherwise all of them together do.
        gains: for each, how far setting it free alone moves the decision's margin back, in nats.
    """

    locks: tuple[int, ...]
    alone: bool
    gains: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Flip:
    """A masked row that proposes another token than it would with nothing frozen.

    Attributes:
        position: of the row.
        kl: KL(nothing frozen || with locks) in nats.
        fresh_token, locked_token: the two proposals.
        causes: their margin is that of the fresh token's logit over the locked one's.
    """

    position: int
    kl: float
    fresh_token: int
    locked_token: int
    causes: Causes


def candidate_locks(canvas: LockedCanvas, limit: int) -> Tensor:
    """Positions [C] of up to `limit` locks to try alone: half the latest, half those whose values drifted most."""
    locks = canvas.frozen.nonzero().squeeze(1)
    if len(locks) <= limit:
        return locks
    drift = canvas.drift()[:, 1].mean(0)[locks]
    by_drift = locks[drift.argsort(descending=True, stable=True)]
    by_recency = locks[canvas.locked_at[locks].argsort(descending=True, stable=True)]
    mixed = torch.stack((by_recency, by_drift), 1).flatten().tolist()
    return torch.tensor(list(dict.fromkeys(mixed))[:limit], device=locks.device)


def lock_effects(canvas: LockedCanvas, locks: Tensor) -> list[LockEffect]:
    """The harm each of `locks` [C] does to all masked rows of the canvas."""
    rows, mask = canvas.masked.nonzero().squeeze(1), canvas.mask_token_id
    fresh = canvas.fresh_logits[rows]
    harmed = compare(fresh, canvas.logits[rows], mask).kl.sum()
    left: list[float] = []
    for logits in canvas.variants(_one_each(locks, len(canvas.inputs)), rows):
        found = compare(fresh.repeat(len(logits), 1), logits.flatten(0, 1), mask)
        left += found.kl.view(len(logits), -1).sum(1).tolist()
    return [LockEffect(position, float(harmed) - value) for position, value in zip(locks.tolist(), left, strict=True)]


def find_causes(canvas: LockedCanvas, rows: Tensor, *, max_locks: int = MAX_LOCKS) -> list[Flip]:
    """The flips among masked positions `rows` [F], each with its causes.

    Up to max_locks variants of the canvas are computed for all of them, and for each flip that no single lock explains
    log2(locks) + NUM_BISECTED more.
    """
    seen = compare(canvas.fresh_logits[rows], canvas.logits[rows], canvas.mask_token_id)
    rows, seen = rows[seen.flipped], seen.at(seen.flipped)
    if not len(rows):
        return []
    flips = _Flips(canvas, rows, seen.reference_token, seen.other_token)
    causes = _causes(canvas, flips, [flips.of(index) for index in range(len(rows))], max_locks)
    return list(map(Flip, rows.tolist(), *(column.tolist() for column in seen), causes))


def find_causes_of_choice(canvas: LockedCanvas, expected: int, chosen: int, *, max_locks: int = MAX_LOCKS) -> Causes:
    """The locks that made position `chosen` surer than `expected`, which is surer with nothing frozen."""
    choice = _Choice(canvas, torch.tensor([expected, chosen], device=canvas.inputs.device))
    return _causes(canvas, choice, [choice], max_locks)[0]


class _Decisions(Protocol):
    """F decisions, and what they become when locks are set free."""

    def of_logits(self, logits: Tensor) -> tuple[Tensor, Mask]:
        """From logits [C, R, V] of rows [R] in C variants: how far each decision is from being the locked one, and
        whether it is the fresh one, [C, F] each.
        """
        ...

    @property
    def rows(self) -> Tensor:
        """[R], positions whose logits decide."""
        ...


@dataclass(frozen=True, slots=True)
class _Flips:
    """Flipped rows [F], which propose `locked` where they should `fresh` [F]."""

    canvas: LockedCanvas
    rows: Tensor
    fresh: Tensor
    locked: Tensor

    def of(self, index: int) -> _Flips:
        """One of the rows only."""
        one = slice(index, index + 1)
        return _Flips(self.canvas, self.rows[one], self.fresh[one], self.locked[one])

    def of_logits(self, logits: Tensor) -> tuple[Tensor, Mask]:
        """Logit of the fresh token less that of the locked one; whether the fresh one is proposed."""
        tokens = torch.stack((self.fresh, self.locked), 1).expand(len(logits), -1, -1)
        fresh, locked = logits.gather(2, tokens).unbind(2)
        reference = self.canvas.fresh_logits[self.rows].repeat(len(logits), 1)
        found = compare(reference, logits.flatten(0, 1), self.canvas.mask_token_id)
        return fresh - locked, ~found.flipped.view(len(logits), -1)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Two rows [2], the first of which should be unmasked first."""

    canvas: LockedCanvas
    rows: Tensor

    def of_logits(self, logits: Tensor) -> tuple[Tensor, Mask]:
        """Log confidence of the first row less that of the second; whether that is positive."""
        log_p = logits.log_softmax(2)
        log_p[:, :, self.canvas.mask_token_id] = -torch.inf
        expected, chosen = log_p.amax(2).unbind(1)
        lead = (expected - chosen).unsqueeze(1)
        return lead, lead > 0


def _causes(canvas: LockedCanvas, decisions: _Decisions, each: Sequence[_Decisions], max_locks: int) -> list[Causes]:
    """The causes of each of the F decisions, which `each` holds one by one."""
    locks = candidate_locks(canvas, max_locks)
    margins, restored = _with_freed(canvas, decisions, _one_each(locks, len(canvas.inputs)))
    gains = margins - decisions.of_logits(canvas.logits[decisions.rows].unsqueeze(0))[0]
    found = []
    for index, own in enumerate(each):
        order = gains[:, index].argsort(descending=True, stable=True)
        alone = locks[[place for place in order.tolist() if restored[place, index]]].tolist()
        group = alone or _smallest_group(canvas, locks[order], own)
        gain_of = dict(zip(locks.tolist(), gains[:, index].tolist(), strict=True))
        found.append(Causes(tuple(group), bool(alone), tuple(gain_of.get(position, 0.0) for position in group)))
    return found


def _with_freed(canvas: LockedCanvas, decisions: _Decisions, freed: Mask) -> tuple[Tensor, Mask]:
    """What becomes of the decisions with each of `freed` [C, N] set free, [C, F] each."""
    found = [decisions.of_logits(logits) for logits in canvas.variants(freed, decisions.rows)]
    margins, restored = zip(*found, strict=True)
    return torch.cat(margins), torch.cat(restored)


def _smallest_group(canvas: LockedCanvas, ranked: Tensor, decision: _Decisions) -> list[int]:
    """The shortest beginning of all locks, `ranked` first, that was tried and restores the one decision."""
    others = canvas.frozen.clone()
    others[ranked] = False
    order = torch.cat((ranked, others.nonzero().squeeze(1)))
    place = torch.full_like(canvas.inputs, len(order))
    place[order] = torch.arange(len(order), device=order.device)

    def works(sizes: Sequence[int]) -> list[bool]:
        freed = place < torch.tensor(sizes, device=place.device).unsqueeze(1)
        return [bool(value) for value in _with_freed(canvas, decision, freed)[1][:, 0].tolist()]

    sizes = [2**power for power in range(1, 32) if 2**power < len(order)] + [len(order)]
    found = works(sizes)
    if True not in found:
        # Rounding: even with every lock set free this is another batch than the one the flip was seen in.
        return []
    first = found.index(True)
    low, high = (sizes[first - 1] if first else 1), sizes[first]
    between = {low + (high - low) * part // (NUM_BISECTED + 1) for part in range(1, NUM_BISECTED + 1)} - {low, high}
    if between:
        tried = sorted(between)
        high = next((size for size, worked in zip(tried, works(tried), strict=True) if worked), high)
    return [int(position) for position in order[:high]]


def _one_each(locks: Tensor, length: int) -> Mask:
    """[C, N]: one position in each row."""
    return torch.arange(length, device=locks.device) == locks.unsqueeze(1)
