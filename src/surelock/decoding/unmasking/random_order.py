"""LLaDA's `random` remasking: positions in random order, whatever the model thinks of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surelock.decoding.canvas import Mask
from surelock.decoding.noise import Purpose, uniform
from surelock.decoding.protocols import Proposal
from surelock.decoding.slotwise import take_top


@dataclass(frozen=True, slots=True)
class RandomOrder:
    """Uniformly random candidates of each request, by its own seed."""

    def select(self, proposal: Proposal, candidates: Mask, quota: Tensor) -> Mask:
        """See `UnmaskingPolicy.select`."""
        slot, position = candidates.nonzero(as_tuple=True)
        order = torch.zeros(candidates.shape, dtype=torch.float64, device=candidates.device)
        order[candidates] = uniform(proposal.seed[slot], proposal.step[slot], position, 1, Purpose.ORDER).squeeze(1)
        return take_top(order, candidates, quota)
