"""The numbers of every slot's request, on the host and, once a step, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from surelock.decoding.protocols import GateScopeCode, LockNumbers
from surelock.decoding.step import StepKind, StepPlan
from surelock.engine.request import Request

# Pinned copies in turn: one may still be on its way while the next is written.
NUM_STAGED = 4


class Column(IntEnum):
    """What a row of the table holds; 64 bits each."""

    STEP = 0
    COUNTED_FROM = 1
    BLOCK_END = 2
    BLOCK_STEPS = 3
    BLOCK_INDEX = 4
    TESTS_LOCKS = 5
    SEED = 6
    TEMPERATURE = 7  # float64
    ALLOW_MASK = 8
    POLICY = 9
    KL_THRESHOLD = 10  # float64
    PERCENTILE = 11  # float64
    GATE_SCOPE = 12
    MIN_VISIBLE_STEPS = 13
    KL_BOTH_VISIBLE = 14
    PROMPT_LOCK_STEP = 15
    NUM_KEYS = 16
    KV_START = 17
    KV_START_UNCONDITIONAL = 18
    CFG_SCALE = 19  # float64


class SlotTable:
    """int64 [columns, S + 1]: a column for each slot, and one for rows that pad, which have a canvas of one position.

    Args:
        policies: names of the unmasking policies; their order is their code.
    """

    def __init__(self, num_slots: int, policies: Sequence[str], device: torch.device) -> None:
        self.num_slots = num_slots
        self._policies = list(policies)
        self._numbers = np.zeros((len(Column), num_slots + 1), dtype=np.int64)
        # Slots without a request have no rows, so any number but this one may be 0: attention divides by it.
        self._numbers[Column.NUM_KEYS] = 1
        pin = device.type == "cuda"
        shape = (NUM_STAGED, *self._numbers.shape)
        self._staged = torch.zeros(shape, dtype=torch.int64, pin_memory=pin)
        self._next = 0
        self.device_table = torch.zeros(shape[1:], dtype=torch.int64, device=device)

    def grown(self, num_slots: int) -> SlotTable:
        """A table of at least as many slots that holds what this one does."""
        new = SlotTable(num_slots, self._policies, self.device_table.device)
        new._numbers[:, : self.num_slots] = self._numbers[:, :-1]
        return new

    def put(self, request: Request) -> None:
        """Enter a request that has just got its slot."""
        params, lock = request.params, request.lock
        column = self._numbers[:, request.slot]
        column[Column.SEED] = request.seed
        column[Column.TEMPERATURE] = _bits(params.temperature)
        column[Column.ALLOW_MASK] = params.allow_mask
        column[Column.POLICY] = self._policies.index(params.unmasking)
        column[Column.KL_THRESHOLD] = _bits(lock.kl_threshold)
        percentile = lock.confidence_percentile
        column[Column.PERCENTILE] = _bits(np.nan if percentile is None else percentile)
        column[Column.GATE_SCOPE] = GateScopeCode[lock.gate_scope.upper()]
        column[Column.MIN_VISIBLE_STEPS] = lock.min_visible_steps
        column[Column.KL_BOTH_VISIBLE] = lock.kl_both_visible
        column[Column.PROMPT_LOCK_STEP] = lock.prompt_lock_step or 0
        column[Column.NUM_KEYS] = request.num_positions
        column[Column.KV_START] = request.kv_starts[0]
        column[Column.KV_START_UNCONDITIONAL] = request.kv_starts[-1]
        column[Column.CFG_SCALE] = _bits(params.cfg_scale)

    def advance(self, request: Request) -> None:
        """Enter the step that the request is about to run."""
        block, index = request.schedule.locate(request.num_launched)
        column = self._numbers[:, request.slot]
        column[Column.STEP] = request.num_launched
        column[Column.COUNTED_FROM] = block.counted_from
        column[Column.BLOCK_END] = block.end
        column[Column.BLOCK_STEPS] = block.num_steps
        column[Column.BLOCK_INDEX] = index
        column[Column.TESTS_LOCKS] = request.tests_locks

    def clear(self, slot: int) -> None:
        """Forget a slot's request."""
        self._numbers[:, slot] = 0
        self._numbers[Column.NUM_KEYS, slot] = 1

    def upload(self) -> None:
        """Bring the device's copy up to date, behind everything that was launched before."""
        staged = self._staged[self._next]
        self._next = (self._next + 1) % NUM_STAGED
        staged.numpy()[:] = self._numbers
        self.device_table.copy_(staged, non_blocking=True)

    def integers(self, column: Column) -> Tensor:
        """int64 [S + 1], a view of the device's copy."""
        return self.device_table[column]

    def reals(self, column: Column) -> Tensor:
        """float64 [S + 1], a view of the device's copy."""
        return self.device_table[column].view(torch.float64)

    def plan(self, kind: StepKind) -> StepPlan:
        """The plan of the step that was entered last; reads the device's copy only, so it can be captured."""

        def integer(column: Column) -> Tensor:
            return self.integers(column)[:-1]

        def flag(column: Column) -> Tensor:
            return integer(column) != 0

        def real(column: Column) -> Tensor:
            return self.reals(column)[:-1]

        policy = integer(Column.POLICY)
        return StepPlan(
            kind=kind,
            step=integer(Column.STEP),
            counted_from=integer(Column.COUNTED_FROM),
            block_end=integer(Column.BLOCK_END),
            block_steps=integer(Column.BLOCK_STEPS),
            block_index=integer(Column.BLOCK_INDEX),
            tests_locks=flag(Column.TESTS_LOCKS),
            seed=integer(Column.SEED),
            temperature=real(Column.TEMPERATURE),
            allow_mask=flag(Column.ALLOW_MASK),
            policy={name: policy == self._policies.index(name) for name in sorted(kind.policies)},
            lock=LockNumbers(
                kl_threshold=real(Column.KL_THRESHOLD),
                percentile=real(Column.PERCENTILE),
                gate_scope=integer(Column.GATE_SCOPE),
                min_visible_steps=integer(Column.MIN_VISIBLE_STEPS),
                kl_both_visible=flag(Column.KL_BOTH_VISIBLE),
                prompt_lock_step=integer(Column.PROMPT_LOCK_STEP),
                has_gate=kind.has_gate,
            ),
        )


def _bits(value: float) -> int:
    """A float64 as the 64-bit integer that is stored."""
    return int(np.float64(value).view(np.int64))
