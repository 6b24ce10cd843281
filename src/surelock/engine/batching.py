"""From the running requests' own numbers to the tensors of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from surelock.decoding.protocols import GateScopeCode, LockNumbers
from surelock.decoding.schedule import quota
from surelock.decoding.step import StepPlan
from surelock.engine.request import Request


def step_plan(running: Sequence[Request], num_slots: int, device: torch.device) -> StepPlan:
    """The plan of the step that `Request.step` names. Slots without a request have no rows, so zeros do for them."""
    by_slot = {request.slot: request for request in running}

    def column(dtype: torch.dtype, read: Callable[[Request], float]) -> Tensor:
        values = [read(by_slot[slot]) if slot in by_slot else 0 for slot in range(num_slots)]
        return torch.tensor(values, dtype=dtype, device=device)

    integer, real, flag = torch.int64, torch.float64, torch.bool
    return StepPlan(
        step=column(integer, lambda r: r.step),
        block_end=column(integer, lambda r: r.schedule.locate(r.step)[0].end),
        quota=column(integer, _quota),
        tests_locks=column(flag, lambda r: not r.lock.is_never and r.step < r.num_steps),
        seed=column(integer, lambda r: r.seed),
        temperature=column(real, lambda r: r.params.temperature),
        allow_mask=column(flag, lambda r: r.params.allow_mask),
        policy={name: column(flag, _uses(name)) for name in {r.params.unmasking for r in running}},
        lock=LockNumbers(
            kl_threshold=column(real, lambda r: r.lock.kl_threshold),
            percentile=column(real, _percentile),
            gate_scope=column(integer, lambda r: GateScopeCode[r.lock.gate_scope.upper()]),
            min_visible_steps=column(integer, lambda r: r.lock.min_visible_steps),
            kl_both_visible=column(flag, lambda r: r.lock.kl_both_visible),
            prompt_lock_step=column(integer, lambda r: r.lock.prompt_lock_step or 0),
        ),
    )


def _quota(request: Request) -> int:
    block, index = request.schedule.locate(request.step)
    return quota(request.num_block_masks, block.num_steps, index)


def _percentile(request: Request) -> float:
    percentile = request.lock.confidence_percentile
    return torch.nan if percentile is None else percentile


def _uses(policy: str) -> Callable[[Request], bool]:
    return lambda request: request.params.unmasking == policy
