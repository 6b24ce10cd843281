"""LLaDA's `low_confidence` remasking (arXiv 2502.09992): the most confident proposals stay, the rest are masked."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from surelock.decoding.canvases import Mask
from surelock.decoding.protocols import Proposal
from surelock.ops.take_top import take_top


@dataclass(frozen=True, slots=True)
class TopK:
    """The quota most confident candidates of each request."""

    def select(self, proposal: Proposal, candidates: Mask, quota: Tensor) -> Mask:
        """See `UnmaskingPolicy.select`."""
        return take_top(proposal.confidence, candidates, quota)
