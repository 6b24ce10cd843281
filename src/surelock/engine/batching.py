"""From the running requests' own numbers to the tensors of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from surelock.decoding.protocols import GateScopeCode, LockNumbers
from surelock.decoding.schedule import quota
from surelock.decoding.step import StepPlan
from surelock.engine.request import Request


def step_plan(running: Sequence[Request], num_slots: int, device: torch.device) -> StepPlan:
    """The plan of the step that `Request.step` names. Slots without a request have no rows, so zeros do for them."""
    table = _Table(running, num_slots)
    step = table.integer(lambda r: r.step)
    block_end = table.integer(lambda r: r.schedule.locate(r.step)[0].end)
    count = table.integer(_quota)
    tests_locks = table.integer(_tests_locks)
    seed = table.integer(lambda r: r.seed)
    temperature = table.real(lambda r: r.params.temperature)
    allow_mask = table.integer(lambda r: r.params.allow_mask)
    policy = {name: table.integer(_uses(name)) for name in {r.params.unmasking for r in running}}
    kl_threshold = table.real(lambda r: r.lock.kl_threshold)
    percentile = table.real(_percentile)
    gate_scope = table.integer(lambda r: GateScopeCode[r.lock.gate_scope.upper()])
    min_visible_steps = table.integer(lambda r: r.lock.min_visible_steps)
    kl_both_visible = table.integer(lambda r: r.lock.kl_both_visible)
    prompt_lock_step = table.integer(lambda r: r.lock.prompt_lock_step or 0)

    columns = table.on(device)
    return StepPlan(
        step=columns[step],
        block_end=columns[block_end],
        quota=columns[count],
        tests_locks=columns[tests_locks].bool(),
        may_lock=any(map(_tests_locks, running)),
        measures_late=any(map(_measures_late, running)),
        seed=columns[seed],
        temperature=columns[temperature].view(torch.float64),
        may_sample=any(request.params.temperature > 0 for request in running),
        allow_mask=columns[allow_mask].bool(),
        policy={name: columns[uses].bool() for name, uses in policy.items()},
        lock=LockNumbers(
            kl_threshold=columns[kl_threshold].view(torch.float64),
            percentile=columns[percentile].view(torch.float64),
            gate_scope=columns[gate_scope],
            min_visible_steps=columns[min_visible_steps],
            kl_both_visible=columns[kl_both_visible].bool(),
            prompt_lock_step=columns[prompt_lock_step],
        ),
    )


class _Table:
    """Numbers of each slot's request, 64 bits each, gathered so that one copy takes them all to the device."""

    def __init__(self, running: Sequence[Request], num_slots: int) -> None:
        by_slot = {request.slot: request for request in running}
        self._requests = [by_slot.get(slot) for slot in range(num_slots)]
        self._columns: list[np.ndarray] = []

    def integer(self, read: Callable[[Request], int]) -> int:
        """Add a column; returns its number."""
        return self._add([0 if request is None else int(read(request)) for request in self._requests], np.int64)

    def real(self, read: Callable[[Request], float]) -> int:
        """Add a column of float64, to be viewed as such on the device; returns its number."""
        return self._add([0.0 if request is None else read(request) for request in self._requests], np.float64)

    def on(self, device: torch.device) -> Tensor:
        """int64 [columns, S] on the device."""
        table = torch.from_numpy(np.stack(self._columns))
        return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table

    def _add(self, values: list[int] | list[float], dtype: type[np.generic]) -> int:
        self._columns.append(np.array(values, dtype=dtype).view(np.int64))
        return len(self._columns) - 1


def _tests_locks(request: Request) -> bool:
    return not request.lock.is_never and request.step < request.num_steps


def _measures_late(request: Request) -> bool:
    lock = request.lock
    gated_by_all = lock.confidence_percentile is not None and lock.gate_scope == "active"
    return _tests_locks(request) and (lock.min_visible_steps == 0 or gated_by_all)


def _quota(request: Request) -> int:
    block, index = request.schedule.locate(request.step)
    return quota(request.num_block_masks, block.num_steps, index)


def _percentile(request: Request) -> float:
    percentile = request.lock.confidence_percentile
    return torch.nan if percentile is None else percentile


def _uses(policy: str) -> Callable[[Request], bool]:
    return lambda request: request.params.unmasking == policy
