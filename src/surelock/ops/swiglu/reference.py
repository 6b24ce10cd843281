"""Plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up; shapes in the package's docstring."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
