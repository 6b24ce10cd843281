"""The numbers of every slot's request, which do not change while it runs, on the host and on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from surelock.decoding.protocols import GateScopeCode, LockNumbers
from surelock.decoding.schedule import Blocks, blocks_of
from surelock.decoding.step import StepInputs, StepKind
from surelock.engine.request import Request


class Column(IntEnum):
    """What a row of the table holds; 64 bits each."""

    BLOCKS = 0  # the fields of `Blocks`, one row each
    SEED = 9
    TEMPERATURE = 10  # float64
    ALLOW_MASK = 11
    POLICY = 12
    KL_THRESHOLD = 13  # float64
    PERCENTILE = 14  # float64
    GATE_SCOPE = 15
    MIN_VISIBLE_STEPS = 16
    KL_BOTH_VISIBLE = 17
    PROMPT_LOCK_STEP = 18
    REFRESH = 19
    NUM_KEYS = 20
    KV_START = 21
    KV_START_UNCONDITIONAL = 22
    CFG_SCALE = 23  # float64


_BLOCK_FIELDS = tuple(field.name for field in fields(Blocks))
_BLOCK_ROWS = slice(Column.BLOCKS, Column.BLOCKS + len(_BLOCK_FIELDS))
assert _BLOCK_ROWS.stop == Column.SEED

# Slots without a request have no rows, so any number but this one may be 0: attention divides by it.


class SlotTable:
    """int64 [columns, S + 1]: a column for each slot, and one for rows that pad, which have a canvas of one position.

    Args:
        policies: names of the unmasking policies; their order is their code.
    """

    def __init__(self, num_slots: int, policies: Sequence[str], device: torch.device) -> None:
        self.num_slots = num_slots
        self._policies = list(policies)
        self._numbers = np.zeros((max(Column) + 1, num_slots + 1), dtype=np.int64)
        self._numbers[Column.NUM_KEYS] = 1
        # One is enough: before the next upload the host has waited for the step that this one was for.
        self._staged = torch.zeros(self._numbers.shape, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._is_stale = True
        self.device_table = torch.zeros_like(self._staged, device=device)

    def grown(self, num_slots: int) -> SlotTable:
        """A table of at least as many slots that holds what this one does."""
        new = SlotTable(num_slots, self._policies, self.device_table.device)
        new._numbers[:, : self.num_slots] = self._numbers[:, :-1]
        return new

    def put(self, request: Request) -> None:
        """Enter a request that has just got its slot."""
        params, lock = request.params, request.lock
        column = self._numbers[:, request.slot]
        blocks = blocks_of(params, request.num_prompt)
        column[_BLOCK_ROWS] = [getattr(blocks, name) for name in _BLOCK_FIELDS]
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
        column[Column.REFRESH] = lock.refresh or 0
        column[Column.NUM_KEYS] = request.num_positions
        column[Column.KV_START] = request.kv_starts[0]
        column[Column.KV_START_UNCONDITIONAL] = request.kv_starts[-1]
        column[Column.CFG_SCALE] = _bits(params.cfg_scale)
        self._is_stale = True

    def clear(self, slot: int) -> None:
        """Forget a slot's request."""
        self._numbers[:, slot] = 0
        self._numbers[Column.NUM_KEYS, slot] = 1
        self._is_stale = True

    def upload(self) -> None:
        """Bring the device's copy up to date, if anything was entered or cleared."""
        if not self._is_stale:
            return
        self._is_stale = False
        self._staged.numpy()[:] = self._numbers
        self.device_table.copy_(self._staged, non_blocking=True)

    def integers(self, column: Column) -> Tensor:
        """int64 [S + 1], a view of the device's copy."""
        return self.device_table[column]

    def reals(self, column: Column) -> Tensor:
        """float64 [S + 1], a view of the device's copy."""
        return self.device_table[column].view(torch.float64)

    def inputs(self, kind: StepKind) -> StepInputs:
        """The inputs of a step; reads the device's copy only, so it can be captured."""

        def integer(column: Column) -> Tensor:
            return self.integers(column)[:-1]

        def flag(column: Column) -> Tensor:
            return integer(column) != 0

        def real(column: Column) -> Tensor:
            return self.reals(column)[:-1]

        policy = integer(Column.POLICY)
        return StepInputs(
            kind=kind,
            blocks=Blocks(*self.device_table[_BLOCK_ROWS, :-1]),
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
                refresh=integer(Column.REFRESH),
                has_gate=kind.has_gate,
            ),
        )


def _bits(value: float) -> int:
    """A float64 as the 64-bit integer that is stored."""
    return int(np.float64(value).view(np.int64))
