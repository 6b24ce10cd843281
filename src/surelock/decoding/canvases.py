"""The canvases of a batch: one cell for each position of each slot, changed in place."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

Mask = Tensor  # bool [S, L]


class PositionState(IntEnum):
    """One value per position, so a position that is locked and masked cannot be written down.

    OUTSIDE: the slot is empty, or its request's canvas ends before the position.
    """

    MASKED = 0
    UNMASKED = 1
    LOCKED = 2
    OUTSIDE = 3


class Canvases:
    """State of every position of S slots of L positions.

    Tensors keep their addresses, so a captured graph may hold them. What rows are read from or written to is flat,
    [S L + 1, ...]: cell slot * L + position, and a last cell for rows that pad.

    Attributes:
        num_slots, length: S and L.
        flat_tokens: [S L + 1] int64, the current token (MASK where masked); dense view `tokens`.
        flat_given: [S L + 1] bool, positions the prompt gave a token to; dense view `given`.
        flat_hidden: [S L + 1, d], final hidden row of each position when it was last computed.
        flat_previous: [S L + 1, d], the one before that.
        position: [L] int64, 0 .. L - 1.
        state: [S, L] uint8, a `PositionState`.
        age: [S, L] int32, forwards done with the real token as input.
        locked_at: [S, L] int32, 1-based step that locked the position, 0 = never.
        computed_at: [S, L] int32, 1-based step that last computed it, -1 = never.
        step: [S] int64, steps done.
        block, block_step: [S] int64, the slot's block and the step inside it that comes next, from 0.
        block_end: [S] int64, position (exclusive) before which the block may commit.
        block_masks, block_steps: [S] int64, masks the block began with, and the steps it has.
        quota: [S] int64, tokens the next step commits.
        rows, eligible, tested: [S, L] bool, what the next step computes, which of that may get a token, and which is
            tested for locking; chosen by `step.look_ahead`.
        failed: [S] bool, the model's output was not finite. `done`: the request has all its tokens. Such a slot has no
            active position.
    """

    def __init__(
        self, hidden_size: int, *, dtype: torch.dtype, device: torch.device, num_slots: int = 0, length: int = 0
    ) -> None:
        self.device = device
        self.num_slots = num_slots
        self.length = length
        num_cells = num_slots * length + 1
        self.flat_tokens = torch.zeros(num_cells, dtype=torch.int64, device=device)
        self.flat_given = torch.zeros(num_cells, dtype=torch.bool, device=device)
        # Not read before they are written; NaN shows if they are.
        self.flat_hidden = torch.full((num_cells, hidden_size), torch.nan, dtype=dtype, device=device)
        self.flat_previous = torch.full_like(self.flat_hidden, torch.nan)
        self._set_up_dense()

    def _set_up_dense(self) -> None:
        shape, device = (self.num_slots, self.length), self.device
        self.position = torch.arange(self.length, device=device)
        self.state = torch.full(shape, int(PositionState.OUTSIDE), dtype=torch.uint8, device=device)
        self.age = torch.zeros(shape, dtype=torch.int32, device=device)
        self.locked_at = torch.zeros(shape, dtype=torch.int32, device=device)
        self.computed_at = torch.full(shape, -1, dtype=torch.int32, device=device)
        self.rows, self.eligible, self.tested = (torch.zeros(shape, dtype=torch.bool, device=device) for _ in range(3))
        cursor = (torch.zeros(self.num_slots, dtype=torch.int64, device=device) for _ in range(7))
        self.step, self.block, self.block_step, self.block_end, self.block_masks, self.block_steps, self.quota = cursor
        self.failed, self.done = (torch.zeros(self.num_slots, dtype=torch.bool, device=device) for _ in range(2))

    @property
    def pad(self) -> int:
        """The cell of rows that pad, S L."""
        return self.num_slots * self.length

    @property
    def tokens(self) -> Tensor:
        """[S, L] int64, a view."""
        return self._dense(self.flat_tokens)

    @property
    def given(self) -> Mask:
        """[S, L] bool, a view."""
        return self._dense(self.flat_given)

    @property
    def masked(self) -> Mask:
        """Positions still to be denoised."""
        return self.state == PositionState.MASKED

    @property
    def unmasked(self) -> Mask:
        """Positions with a token that are still computed."""
        return self.state == PositionState.UNMASKED

    @property
    def active(self) -> Mask:
        """Positions that may be computed in the next step: all that are not locked."""
        return (self.state < PositionState.LOCKED) & self._runs

    @property
    def locked(self) -> Mask:
        """Locked positions of the slots that go on."""
        return (self.state == PositionState.LOCKED) & self._runs

    @property
    def _runs(self) -> Tensor:
        """bool [S, 1]."""
        return ~(self.failed | self.done).unsqueeze(1)

    def put(self, slot: int, token_ids: Tensor, masked: Tensor) -> None:
        """Start a request in `slot`: token_ids [N] int64 with MASK where masked [N] bool."""
        num = token_ids.shape[0]
        self.clear(slot)
        self.tokens[slot, :num] = token_ids
        self.state[slot, :num] = torch.where(masked, int(PositionState.MASKED), int(PositionState.UNMASKED)).to(
            torch.uint8
        )
        self.given[slot, :num] = ~masked

    def clear(self, slot: int) -> None:
        """Empty a slot: nothing in it is active."""
        self.state[slot] = PositionState.OUTSIDE
        self.age[slot] = 0
        self.given[slot] = False
        self.locked_at[slot] = 0
        self.computed_at[slot] = -1
        for mask in (self.rows, self.eligible, self.tested):
            mask[slot] = False
        for number in self._cursors():
            number[slot] = 0

    def grown(self, num_slots: int, length: int) -> Canvases:
        """A canvas of at least num_slots slots of `length` positions that holds what this one does, or this one."""
        num_slots, length = max(num_slots, self.num_slots), max(length, self.length)
        if (num_slots, length) == (self.num_slots, self.length):
            return self
        hidden = self.flat_hidden
        new = Canvases(hidden.shape[1], dtype=hidden.dtype, device=self.device, num_slots=num_slots, length=length)
        for theirs, mine in zip(new._positions(), self._positions(), strict=True):
            theirs[: self.num_slots, : self.length] = mine
        for theirs, mine in zip(new._cursors(), self._cursors(), strict=True):
            theirs[: self.num_slots] = mine
        return new

    def blank(self) -> Canvases:
        """A canvas of the same shape with nothing active, for rehearsing a step: only the cell that pads is shared."""
        new = Canvases.__new__(Canvases)
        new.device, new.num_slots, new.length = self.device, self.num_slots, self.length
        new.flat_tokens, new.flat_given = torch.zeros_like(self.flat_tokens), torch.zeros_like(self.flat_given)
        # Without active positions every read and write is of the cell that pads, and these two are large.
        new.flat_hidden, new.flat_previous = self.flat_hidden, self.flat_previous
        new._set_up_dense()
        return new

    def _positions(self) -> tuple[Tensor, ...]:
        """Everything that a position has, [S, L, ...] each."""
        hidden, previous = self._dense(self.flat_hidden), self._dense(self.flat_previous)
        chosen = self.rows, self.eligible, self.tested
        return (
            self.tokens,
            self.given,
            hidden,
            previous,
            self.state,
            self.age,
            self.locked_at,
            self.computed_at,
            *chosen,
        )

    def _cursors(self) -> tuple[Tensor, ...]:
        """Everything that a slot has, [S] each."""
        block = self.block, self.block_step, self.block_end, self.block_masks, self.block_steps
        return self.step, *block, self.quota, self.failed, self.done

    def _dense(self, flat: Tensor) -> Tensor:
        return flat[:-1].view(self.num_slots, self.length, *flat.shape[1:])
