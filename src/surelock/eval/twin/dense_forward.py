"""One forward of whole canvases in which chosen positions keep the keys and values of an earlier step.

`DenseDecoder` runs a locking rule through all steps; this is a single step of it again, with any set of its locks set
free, or with the locks frozen in some layers only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from surelock.decoding.canvas import Mask
from surelock.models.transformer import Transformer
from surelock.ops.head_logits import head_logits_float32


class DenseKV(NamedTuple):
    """Rotated keys and values of one layer, [B, N, num_kv_heads, head_dim] each."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Frozen:
    """What attention reads in place of the fresh keys and values.

    Attributes:
        where: [B, N], positions that are frozen.
        kv: of every layer, only read where frozen; one canvas may stand for all B.
        layers: indices of the layers in which they are frozen; None: all.
    """

    where: Mask
    kv: Sequence[DenseKV]
    layers: Collection[int] | None = None


class Forwarded(NamedTuple):
    """Final hidden rows [B, N, d], and the keys and values of every layer as attention read them."""

    hidden: Tensor
    kv: list[DenseKV]


@torch.no_grad()
def dense_forward(model: Transformer, tokens: Tensor, frozen: Frozen | None = None) -> Forwarded:
    """Every position of canvases `tokens` [B, N] int64; without `frozen` every key and value is fresh."""
    num, length = tokens.shape
    shape = (num, length, -1, model.config.head_dim)
    rotation = model.rotation(torch.arange(length, device=tokens.device).repeat(num))
    groups = model.config.num_heads // model.config.num_kv_heads
    x = model.embed(tokens.flatten())
    kept: list[DenseKV] = []
    for index, layer in enumerate(model.layers):
        q, k, v = (part.reshape(shape) for part in layer.project(x, rotation))  # type: ignore[operator]
        if frozen is not None and (frozen.layers is None or index in frozen.layers):
            where = frozen.where[:, :, None, None]
            k, v = (torch.where(where, old, new) for old, new in zip(frozen.kv[index], (k, v), strict=True))
        kept.append(DenseKV(k, v))
        # [B, heads, N, head_dim]
        keys, values = (part.repeat_interleave(groups, 2).transpose(1, 2) for part in (k, v))
        attended = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values)
        x = layer.finish(x, attended.transpose(1, 2).flatten(0, 1))  # type: ignore[operator]
    return Forwarded(model.norm(x).view(num, length, -1), kept)


def logits_of(model: Transformer, hidden: Tensor) -> Tensor:
    """float32 [..., V] of final hidden rows [..., d]."""
    rows = head_logits_float32(hidden.flatten(0, -2), model.lm_head)
    return rows.view(*hidden.shape[:-1], -1)
