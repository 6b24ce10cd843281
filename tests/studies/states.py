"""Dense states written by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from surelock.measure.instrumented import KVDrift, MeasuredState


def row(*values: object) -> Tensor:
    """One canvas."""
    return torch.tensor([values])


def state(step: int, num_positions: int = 4, *, num_steps: int = 20, **changes: object) -> MeasuredState:
    """Everything visible for two steps, still, unlocked and unsure, at some step."""
    shape = (1, num_positions)
    everywhere = torch.ones(shape, dtype=torch.bool)
    plain = MeasuredState(
        step=step,
        num_steps=num_steps,
        tokens=torch.zeros(shape, dtype=torch.int64),
        masked=~everywhere,
        given=~everywhere,
        locked=~everywhere,
        locked_at=torch.zeros(shape, dtype=torch.int32),
        candidates=everywhere,
        age=torch.full(shape, 2, dtype=torch.int32),
        kl=torch.zeros(shape),
        uncertainty=torch.full(shape, 0.5),
        logits=torch.zeros(*shape, 3),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def drift(**of: Tensor) -> KVDrift:
    """One layer [1, B, N] from each [B, N]; nothing moved where nothing is said."""
    (shape,) = {tuple(each.shape) for each in of.values()}
    names = ("keys_step", "values_step", "keys_frozen", "values_frozen")
    return KVDrift(*(of.get(name, torch.zeros(shape)).unsqueeze(0) for name in names))
