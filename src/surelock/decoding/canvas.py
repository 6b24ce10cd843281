"""The canvases of a batch: dense [num_slots, length] tensors, one row of the tensor per slot."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

Mask = Tensor  # bool [S, L]


class PositionState(IntEnum):
    """One value per position, so a position that is locked and masked cannot be written down."""

    MASKED = 0
    UNMASKED = 1
    LOCKED = 2


class Canvas:
    """State of every position of S slots of L positions; a position outside its request's canvas counts as LOCKED.

    Attributes:
        tokens: [S, L] int64, the current token (MASK where masked).
        state: [S, L] uint8, a `PositionState`.
        age: [S, L] int32, forwards done with the real token as input.
        given: [S, L] bool, positions the prompt gave a token to.
        locked_at: [S, L] int32, 1-based step that locked the position, 0 = never.
        hidden: [S, L, d], final hidden row of each position when it was last computed.
        computed_at: [S, L] int32, 1-based step of that, -1 = never.
    """

    def __init__(self, hidden_size: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.device = device
        shape = (0, 0)
        self.tokens = torch.zeros(shape, dtype=torch.int64, device=device)
        self.state = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.age = torch.zeros(shape, dtype=torch.int32, device=device)
        self.given = torch.zeros(shape, dtype=torch.bool, device=device)
        self.locked_at = torch.zeros(shape, dtype=torch.int32, device=device)
        self.hidden = torch.zeros((*shape, hidden_size), dtype=dtype, device=device)
        self.computed_at = torch.zeros(shape, dtype=torch.int32, device=device)

    @property
    def num_slots(self) -> int:
        """S."""
        return self.state.shape[0]

    @property
    def length(self) -> int:
        """L, positions a slot can hold."""
        return self.state.shape[1]

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
        """Positions computed in the next step: all that are not locked."""
        return self.state != PositionState.LOCKED

    def grow(self, num_slots: int, length: int) -> None:
        """Make room for at least num_slots canvases of `length` positions, keeping what is there."""
        more = (max(num_slots - self.num_slots, 0), max(length - self.length, 0))
        if more == (0, 0):
            return
        self.tokens = _padded(self.tokens, more, 0)
        self.state = _padded(self.state, more, PositionState.LOCKED)
        self.age = _padded(self.age, more, 0)
        self.given = _padded(self.given, more, 0)
        self.locked_at = _padded(self.locked_at, more, 0)
        self.computed_at = _padded(self.computed_at, more, -1)
        # Not read before it is written; NaN shows if it is.
        self.hidden = _padded(self.hidden, more, torch.nan)

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
        self.state[slot] = PositionState.LOCKED
        self.age[slot] = 0
        self.given[slot] = False
        self.locked_at[slot] = 0
        self.computed_at[slot] = -1


def _padded(x: Tensor, more: tuple[int, int], value: float) -> Tensor:
    """x [S, L, ...] with more[0] slots and more[1] positions added at the end."""
    slots, positions = x.shape[0] + more[0], x.shape[1] + more[1]
    padded = torch.full((slots, positions, *x.shape[2:]), value, dtype=x.dtype, device=x.device)
    padded[: x.shape[0], : x.shape[1]] = x
    return padded
