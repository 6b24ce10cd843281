"""One forward of whole canvases in which chosen positions keep the keys and values of an earlier step.

`DenseDecoder` runs a locking rule through all steps; this is a single step of it again, with any set of its locks set
free, or with the locks frozen in some layers only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask
from surelock.measure.dense_layers import dense_layers
from surelock.models.transformer import Transformer


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


def dense_forward(model: Transformer, tokens: Tensor, frozen: Frozen | None = None) -> Forwarded:
    """Every position of canvases `tokens` [B, N] int64; without `frozen` every key and value is fresh."""
    kept: list[DenseKV] = []

    def replace(index: int, k: Tensor, v: Tensor) -> DenseKV:
        if frozen is not None and (frozen.layers is None or index in frozen.layers):
            where = frozen.where[:, :, None, None]
            k, v = (torch.where(where, old, new) for old, new in zip(frozen.kv[index], (k, v), strict=True))
        kept.append(DenseKV(k, v))
        return kept[-1]

    return Forwarded(dense_layers(model, tokens, replace), kept)
