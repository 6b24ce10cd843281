"""A fixed share of the active positions: the row selection that experiment 5 of the paper combines with locking.

The paper (section 4, Table 4) computes k = 0.8 of the active rows in each step and does not say which. Here tokens that
were committed and never computed since come first, because others still see a mask in their place; then positions take
turns, those computed longest ago before the others, so that none is stale for long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surelock.decoding.canvases import Canvases, Mask
from surelock.ops.take_top import take_top


@dataclass(frozen=True, slots=True)
class ActiveShare:
    """That share of the masked active positions and of the unmasked ones, each rounded up; everything at first.

    A position that is left out keeps its keys and values, and has no divergence in the next step.

    Attributes:
        share: above 0, at most 1.
        max_quota: masks are all computed where there are no more than this; so the most tokens a step may commit.
            Canvases must be of one block: masks of later blocks take part, and would displace those due now.
    """

    share: float
    max_quota: int = 4

    def select(self, canvas: Canvases) -> Mask:
        """See `RowSelector.select`."""
        active = canvas.active
        masked = active & canvas.masked
        unmasked = active & ~masked
        num_masked = masked.sum(1)
        quota = self._part(num_masked).maximum(num_masked.clamp_max(self.max_quota))
        waited = -canvas.computed_at.float()
        fresh = unmasked & (canvas.age == 0)
        never = active & (canvas.computed_at < 0)
        waited = waited.masked_fill(fresh, torch.inf)
        return never | take_top(waited, masked, quota) | take_top(waited, unmasked, self._part(unmasked.sum(1)))

    def _part(self, num: Tensor) -> Tensor:
        """int64 [S]."""
        return (num.double() * self.share).ceil().long()
