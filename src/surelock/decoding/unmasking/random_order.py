"""LLaDA's `random` remasking: positions in random order, whatever the model thinks of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from surelock.decoding.canvas import Mask
from surelock.decoding.protocols import Proposal
from surelock.decoding.rowwise import take_top


@dataclass(frozen=True, slots=True)
class RandomOrder:
    """Uniformly random candidates of each request, by its own seed."""

    def select(self, proposal: Proposal, candidates: Mask, quota: Tensor) -> Mask:
        """See `UnmaskingPolicy.select`."""
        return take_top(proposal.noise, candidates, quota)
