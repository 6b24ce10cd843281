"""Measures every step of a run with locks that repeats the decisions of one without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from studies.forced.records import GHOST, LOCK_CLASSES, Group, Record
from studies.study import Row
from surelock.measure.forced.causes import Flip, lock_effects
from surelock.measure.forced.causes import LockedCanvas as Scene
from surelock.measure.forced.causes import find_causes as find_guilty
from surelock.measure.forced.lockstep import ForcedStep as TwinStep
from surelock.measure.forced.lockstep import LockedSide
from surelock.measure.instrumented.forward import CanvasKV as DenseKV
from surelock.measure.instrumented.forward import Frozen, relative_change
from surelock.measure.posteriors import Comparison, compare

# Steps after which the drift of a lock is taken, and ages at which the change of a key is.
DELAYS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
MAX_FLIPS_OF_SCENE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured beyond the two forwards of a step.

    Attributes:
        group_every: in every step that it divides each group of the locks is frozen on its own.
        num_probes: steps of each canvas in which locks are set free one at a time, to see what each does.
        num_scenes: steps of each canvas whose flips are traced to guilty locks.
        max_locks: set free one at a time in either.
    """

    group_every: int = 4
    num_probes: int = 3
    num_scenes: int = 3
    max_locks: int = 64


class Measurement:
    """Takes in the steps of one batch of canvases.

    Args:
        record: what is found is added here.
        prompts: numbers of the canvases' prompts.
        effort: how much to do.
    """

    def __init__(self, record: Record, prompts: Sequence[int], effort: Effort) -> None:
        self._record = record
        self._prompts = list(prompts)
        self._effort = effort
        self._previous: list[DenseKV] | None = None
        self._committed_at: Tensor | None = None
        self._random = np.random.default_rng(self._prompts)
        self._scenes: dict[int, list[int]] = {}

    def take(self, twin: TwinStep) -> None:
        """Measure one step; they must come in order, and one rule has locks in it."""
        self._take_changes(twin)
        ((name, side),) = twin.sides.items()
        self._take_side(twin, name, side, self._record)

    def _take_changes(self, twin: TwinStep) -> None:
        """How keys and values move without locks, by the age of the position."""
        if self._committed_at is None:
            self._committed_at = torch.zeros_like(twin.inputs)
        if self._previous is not None:
            change = relative_change(self._previous, twin.fresh_kv)
            age = torch.where(twin.masked, 0, twin.step - self._committed_at)
            for wanted in (0, *DELAYS):
                at = (age == wanted) & ~twin.given
                if bool(at.any()):
                    self._record.changes[wanted].append(change[:, :, at].cpu().numpy())
        self._previous = twin.fresh_kv
        self._committed_at = torch.where(twin.committed, twin.step, self._committed_at)

    def _take_side(self, twin: TwinStep, name: str, side: LockedSide, record: Record) -> None:
        found = compare(twin.fresh_logits[twin.masked], side.step.logits[twin.masked], twin.model.config.mask_token_id)
        flipped, commits = found.flipped, twin.committed[twin.masked]
        classes = lock_classes(side, twin.given)
        step = record.steps[twin.step]
        step.kl.append(found.kl.cpu().numpy())
        step.num_flips += int(flipped.sum())
        step.num_commits += int(commits.sum())
        step.num_commit_flips += int((flipped & commits).sum())
        step.num_frozen += int(side.frozen.sum())
        step.num_ghosts += int((side.frozen & (classes == GHOST)).sum())
        step.num_positions += side.frozen.numel()

        if bool(side.frozen.any()):
            drift = relative_change(side.kv, twin.fresh_kv)
            self._take_drift(side, classes, drift, record)
            if twin.step % self._effort.group_every == 0:
                self._take_groups(twin, side, classes, drift, found, record)
            if twin.step in self._probe_steps(twin.num_steps):
                self._probe(twin, name, classes, record)
        if bool(flipped.any()):
            where = torch.zeros_like(twin.masked)
            where[twin.masked] = flipped
            self._trace(twin, name, classes, where, record)

    def _probe_steps(self, num_steps: int) -> set[int]:
        num = self._effort.num_probes
        return {round(num_steps * (place + 1) / (num + 1)) for place in range(num)}

    def _take_drift(self, side: LockedSide, classes: Tensor, drift: Tensor, record: Record) -> None:
        since = side.since
        for delay in DELAYS:
            at = side.frozen & (since == delay)
            if bool(at.any()):
                # [num_layers, 2, k] and [k]
                values, which = drift[:, :, at].cpu().numpy(), classes[at].cpu().numpy()
                for index in np.unique(which):
                    record.drifts[LOCK_CLASSES[index], delay].append(values[:, :, which == index])

    def _take_groups(
        self, twin: TwinStep, side: LockedSide, classes: Tensor, drift: Tensor, whole: Comparison, record: Record
    ) -> None:
        add_group(record, Group("all", "all locks"), twin, side.frozen, whole, self._prompts)
        mean = torch.where(side.frozen, drift.mean((0, 1)), torch.nan)
        high = side.frozen & (mean > mean.nanmedian(1, keepdim=True).values)
        by_name = {Group("age", name): side.frozen & (classes == index) for index, name in enumerate(LOCK_CLASSES)}
        by_name |= {Group("drift", "lower half"): side.frozen & ~high, Group("drift", "upper half"): high}
        kv = side.kv
        for group, where in by_name.items():
            if bool(where.any()):
                freeze_only(twin, record, group, Frozen(where, kv), self._prompts)
        for layer in range(len(kv)):
            freeze_only(twin, record, Group("layer", str(layer + 1)), Frozen(side.frozen, kv, [layer]), self._prompts)

    def _probe(self, twin: TwinStep, name: str, classes: Tensor, record: Record) -> None:
        side = twin.sides[name]
        for index, prompt in enumerate(self._prompts):
            scene = Scene.of(twin, name, index)
            locks, masked = scene.frozen.nonzero().squeeze(1), scene.masked.nonzero().squeeze(1)
            if not len(locks) or not len(masked):
                continue
            if len(locks) > self._effort.max_locks:
                picked = self._random.choice(len(locks), self._effort.max_locks, replace=False)
                locks = locks[torch.as_tensor(np.sort(picked), device=locks.device)]
            # [num_layers, 2, N]
            drift = scene.drift().cpu()
            nearest = (locks.unsqueeze(1) - masked).abs().amin(1).tolist()
            for effect, distance in zip(lock_effects(scene, locks), nearest, strict=True):
                of_layers = {
                    f"{part}_drift_{layer + 1}": float(drift[layer, place, effect.position])
                    for layer in range(len(drift))
                    for place, part in enumerate(("key", "value"))
                }
                lock = describe_lock(side, classes, index, effect.position)
                record.effects.append(
                    {"prompt": prompt, "step": twin.step, **lock, "nearest_masked": distance}
                    | {"harm": effect.harm, **of_layers}
                )

    def _trace(self, twin: TwinStep, name: str, classes: Tensor, flipped: Tensor, record: Record) -> None:
        """Guilty locks of the flips of this step, where a canvas still has scenes left."""
        spacing = twin.num_steps // (2 * max(self._effort.num_scenes, 1))
        for index, prompt in enumerate(self._prompts):
            rows = flipped[index].nonzero().squeeze(1)
            if not len(rows):
                continue
            record.first_flip.setdefault(prompt, twin.step)
            scenes = self._scenes.setdefault(index, [])
            if len(scenes) >= self._effort.num_scenes or (scenes and twin.step - scenes[-1] < spacing):
                continue
            scenes.append(twin.step)
            scene = Scene.of(twin, name, index)
            for flip in find_guilty(scene, rows[:MAX_FLIPS_OF_SCENE], max_locks=self._effort.max_locks):
                is_committed = bool(twin.committed[index, flip.position])
                described = _describe_flip(flip, twin.sides[name], classes, index)
                record.flips.append({"prompt": prompt, "step": twin.step, "committed": is_committed, **described})


def lock_classes(side: LockedSide, given: Tensor) -> Tensor:
    """[B, N], index into LOCK_CLASSES; only right where locked."""
    edges = torch.tensor([0, 1, 3], dtype=torch.int32, device=given.device)
    return torch.where(given, 0, torch.bucketize(side.locks.age, edges) + 1)


def describe_lock(side: LockedSide, classes: Tensor, index: int, position: int) -> Row:
    """Where, when and how a position of canvas `index` locked."""
    locks = side.locks
    return {
        "position": position, "lock_class": LOCK_CLASSES[int(classes[index, position])],
        "locked_at": int(locks.at[index, position]), "steps_since": int(side.since[index, position]),
        "age_at_lock": int(locks.age[index, position]), "kl_at_lock": float(locks.kl[index, position]),
        "uncertainty_at_lock": float(locks.uncertainty[index, position]),
    }  # fmt: skip


def freeze_only(twin: TwinStep, record: Record, group: Group, frozen: Frozen, prompts: Sequence[int]) -> None:
    """Compute the step again with nothing else frozen, and add what its masked rows say to the group's record."""
    found = compare(twin.fresh_logits[twin.masked], twin.logits_with(frozen), twin.model.config.mask_token_id)
    add_group(record, group, twin, frozen.where, found, prompts)


def add_group(
    record: Record, group: Group, twin: TwinStep, where: Tensor, found: Comparison, prompts: Sequence[int]
) -> None:
    """Add the masked rows of the canvases that have a lock of the group, frozen at `where` [B, N].

    prompts: the number of each canvas' prompt.
    """
    # A canvas without a lock of the group says nothing about the group.
    present = where.any(1)
    of_present = present.unsqueeze(1).expand_as(twin.masked)[twin.masked]
    total = record.groups[group]
    total.num_steps += int(present.sum())
    total.num_rows += int(of_present.sum())
    total.num_flips += int((found.flipped & of_present).sum())
    kl = torch.zeros(twin.masked.shape, dtype=torch.float64, device=where.device)
    kl[twin.masked] = found.kl.double()
    for prompt, nats, num_locks in zip(prompts, kl.sum(1).tolist(), where.sum(1).tolist(), strict=True):
        if num_locks:
            total.per_lock.add(prompt, nats, num_locks)


def _describe_flip(flip: Flip, side: LockedSide, classes: Tensor, index: int) -> Row:
    distances = (side.frozen[index].nonzero().squeeze(1) - flip.position).abs()
    guilty = flip.causes.locks
    worst = describe_lock(side, classes, index, guilty[0]) if guilty else {}
    return {
        "position": flip.position, "kl": flip.kl, "fresh_token": flip.fresh_token, "locked_token": flip.locked_token,
        "num_locks": len(distances), "num_guilty": len(guilty), "alone": flip.causes.alone,
        "guilty": " ".join(map(str, guilty[:8])), "guilty_distance": guilty[0] - flip.position if guilty else None,
        "nearest_lock": int(distances.min()), "median_lock": float(distances.double().median()),
        "guilty_class": worst.get("lock_class"), "guilty_locked_at": worst.get("locked_at"),
        "guilty_steps_since": worst.get("steps_since"), "guilty_kl_at_lock": worst.get("kl_at_lock"),
        "guilty_uncertainty_at_lock": worst.get("uncertainty_at_lock"),
    }  # fmt: skip
