"""LLaDA's `random` remasking: positions in random order, whatever the model thinks of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask
from surelock.decoding.noise import Purpose, uniform
from surelock.decoding.protocols import Proposal
from surelock.ops.take_top import take_top


@dataclass(frozen=True, slots=True)
class RandomOrder:
    """Uniformly random candidates of each request, by its own seed."""

    def select(self, proposal: Proposal, candidates: Mask, quota: Tensor) -> Mask:
        """See `UnmaskingPolicy.select`."""
        num_slots, length = candidates.shape
        # Of every position, so that the device need not be asked which ones are candidates.
        position = torch.arange(length, device=candidates.device).repeat(num_slots)
        seed, step = (x.repeat_interleave(length) for x in (proposal.seed, proposal.step))
        order = uniform(seed, step, position, 1, Purpose.ORDER).view(num_slots, length)
        return take_top(order, candidates, quota)
