"""Plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def take_top(scores: Tensor, candidates: Tensor, quota: Tensor) -> Tensor:
    """The quota highest-scoring candidates of each slot; shapes in the package's docstring."""
    ranked = torch.where(candidates, scores, -torch.inf).argsort(dim=1, descending=True, stable=True)
    position = torch.arange(ranked.shape[1], device=ranked.device).expand_as(ranked)
    rank = torch.empty_like(ranked).scatter_(1, ranked, position)
    return candidates & (rank < quota.unsqueeze(1))
