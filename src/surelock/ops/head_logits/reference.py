"""Plain PyTorch head."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Head(NamedTuple):
    """The language-model head: weight [V, d], bias [V] or None, and the factor its logits are multiplied by."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0

    @property
    def vocab_size(self) -> int:
        """V, the width of the logits."""
        return self.weight.shape[0]

    def part(self, start: int, stop: int) -> Head:
        """The head of token ids start .. stop - 1."""
        return Head(self.weight[start:stop], None if self.bias is None else self.bias[start:stop], self.scale)


def rounded_logits(hidden: Tensor, head: Head) -> Tensor:
    """hidden [n, d] -> logits [n, V], computed and returned in the model's type."""
    logits = F.linear(hidden, head.weight, head.bias)
    return logits if head.scale == 1.0 else logits * head.scale


def head_logits(hidden: Tensor, head: Head) -> Tensor:
    """hidden [n, d] -> logits [n, V], computed in the model's type and returned in float32."""
    return rounded_logits(hidden, head).float()


def copies_head(hidden: Tensor) -> bool:
    """Whether `head_logits_float32` makes a float32 copy of the head's weights for these rows."""
    return hidden.dtype != torch.float32 and not hidden.is_cuda


def head_logits_float32(hidden: Tensor, head: Head) -> Tensor:
    """hidden [n, d] -> logits [n, V] with no rounding below float32."""
    if hidden.dtype == torch.float32:
        return head_logits(hidden, head)
    if not copies_head(hidden):
        # Half-precision factors, float32 sums and result.
        logits = torch.mm(hidden, head.weight.T, out_dtype=torch.float32)
        return (logits if head.bias is None else logits + head.bias.float()) * head.scale
    bias = None if head.bias is None else head.bias.float()
    return F.linear(hidden.float(), head.weight.float(), bias) * head.scale
