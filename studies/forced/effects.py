"""What single locks do to the masked rows of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from studies.forced.records import LOCK_CLASSES
from studies.study import Row
from surelock.measure.forced.causes import LockedCanvas, lock_effects
from surelock.measure.forced.lockstep import ForcedStep, LockedSide

# The name of the run with locks.
LOCKED: Final = "locked"


def effects(
    step: ForcedStep, prompts: Sequence[int], max_locks: int, random: np.random.Generator
) -> Iterator[Row]:  # fmt: skip
    """A row for each of up to max_locks locks of each canvas, which are set free one at a time."""
    side = step.sides[LOCKED]
    classes = lock_classes(side, step.given)
    for index, prompt in enumerate(prompts):
        canvas = LockedCanvas.of(step, LOCKED, index)
        locks, masked = canvas.frozen.nonzero().squeeze(1), canvas.masked.nonzero().squeeze(1)
        if not len(locks) or not len(masked):
            continue
        if len(locks) > max_locks:
            picked = random.choice(len(locks), max_locks, replace=False)
            locks = locks[torch.as_tensor(np.sort(picked), device=locks.device)]
        # [num_layers, 2, N]
        drift = canvas.drift().cpu()
        nearest = (locks.unsqueeze(1) - masked).abs().amin(1).tolist()
        for effect, distance in zip(lock_effects(canvas, locks), nearest, strict=True):
            at = effect.position
            yield {
                "prompt": prompt, "step": step.step, "position": at,
                "lock_class": LOCK_CLASSES[int(classes[index, at])], "locked_at": int(side.locks.at[index, at]),
                "steps_since": int(side.since[index, at]), "age_at_lock": int(side.locks.age[index, at]),
                "kl_at_lock": float(side.locks.kl[index, at]),
                "uncertainty_at_lock": float(side.locks.uncertainty[index, at]), "nearest_masked": distance,
                "harm": effect.harm,
                **{
                    f"{part}_drift_{layer + 1}": float(drift[layer, place, at])
                    for layer in range(len(drift)) for place, part in enumerate(("key", "value"))
                },
            }  # fmt: skip


def lock_classes(side: LockedSide, given: Tensor) -> Tensor:
    """[B, N], index into LOCK_CLASSES; only right where locked."""
    edges = torch.tensor([0, 1, 3], dtype=torch.int32, device=given.device)
    return torch.where(given, 0, torch.bucketize(side.locks.age, edges) + 1)
