"""Plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Norm of x + delta, and x + delta itself; shapes in the package's docstring."""
    total = x if delta is None else x + delta
    wide = total.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype).mul_(weight), total
