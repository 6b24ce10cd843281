"""The layers over whole canvases, for measuring: what attention reads can be replaced, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from surelock.models.transformer import Transformer
from surelock.ops.head_logits import head_logits_float32

# (layer, fresh keys, fresh values) -> those that attention reads; [B, N, num_kv_heads, head_dim] each.
Replace = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def dense_layers(model: Transformer, tokens: Tensor, replace: Replace, rotation: Any = None) -> Tensor:
    """Final hidden rows [B, N, d] of canvases `tokens` [B, N] int64, every position computed.

    rotation: what `position_rotation` gave for canvases of this size, if the caller has kept it.
    """
    if rotation is None:
        rotation = position_rotation(model, *tokens.shape)
    x = model.embed(tokens.flatten())
    for index, layer in enumerate(model.layers):
        q, k, v = (part.reshape(*tokens.shape, *part.shape[1:]) for part in layer.project(x, rotation))  # type: ignore[operator]
        x = layer.finish(x, _attend(q, *replace(index, k, v)).flatten(0, 1))  # type: ignore[operator]
    hidden: Tensor = model.norm(x).view(*tokens.shape, -1)
    return hidden


def position_rotation(model: Transformer, num: int, length: int) -> Any:
    """The rotary angles of `num` canvases of `length` positions."""
    return model.rotation(torch.arange(length, device=model.device).repeat(num))


def logits_of(model: Transformer, hidden: Tensor) -> Tensor:
    """float32 [..., V] of final hidden rows [..., d]."""
    rows = head_logits_float32(hidden.flatten(0, -2), model.lm_head)
    return rows.view(*hidden.shape[:-1], -1)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Everybody to everybody: q [B, N, H, D], k and v [B, N, H_kv, D] -> [B, N, H, D]."""
    groups = q.shape[2] // k.shape[2]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
