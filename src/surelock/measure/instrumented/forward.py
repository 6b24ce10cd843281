"""The forward over whole canvases: every position computed, and keys and values kept where they are frozen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from surelock.decoding.canvases import Canvases, Mask
from surelock.measure.instrumented.records import KVDrift
from surelock.measure.posteriors import logits_of
from surelock.models.transformer import Transformer


class CanvasKV(NamedTuple):
    """Keys, rotated, and values of one layer, [B, N, num_kv_heads, head_dim] each."""

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
    kv: Sequence[CanvasKV]
    layers: Collection[int] | None = None


class Forwarded(NamedTuple):
    """Final hidden rows [B, N, d]; keys and values of every layer as attention read them, and fresh ones if kept."""

    hidden: Tensor
    kv: list[CanvasKV]
    fresh_kv: list[CanvasKV]


@torch.no_grad()
def forward_canvases(
    model: Transformer, tokens: Tensor, frozen: Frozen | None = None, *, rotation: Any = None, keep_fresh: bool = False
) -> Forwarded:
    """Every position of canvases `tokens` [B, N] int64; without `frozen` every key and value is fresh.

    rotation: what `position_rotation` gave for canvases of this size, if the caller has kept it.
    """
    if rotation is None:
        rotation = position_rotation(model, *tokens.shape)
    x = model.embed(tokens.flatten())
    kv, fresh_kv = [], []
    for index, layer in enumerate(model.layers):
        q, k, v = (part.reshape(*tokens.shape, *part.shape[1:]) for part in layer.project(x, rotation))  # type: ignore[operator]
        if keep_fresh:
            fresh_kv.append(CanvasKV(k, v))
        if frozen is not None and (frozen.layers is None or index in frozen.layers):
            where = frozen.where[:, :, None, None]
            k, v = (torch.where(where, old, new) for old, new in zip(frozen.kv[index], (k, v), strict=True))
        kv.append(CanvasKV(k, v))
        x = layer.finish(x, _attend(q, k, v).flatten(0, 1))  # type: ignore[operator]
    return Forwarded(model.norm(x).view(*tokens.shape, -1), kv, fresh_kv)


def position_rotation(model: Transformer, num: int, length: int) -> Any:
    """The rotary angles of `num` canvases of `length` positions."""
    return model.rotation(torch.arange(length, device=model.device).repeat(num))


def relative_change(now: Sequence[CanvasKV], then: Sequence[CanvasKV]) -> Tensor:
    """||now - then|| / ||then|| over all heads together, float32 [num_layers, 2, B, N]: of keys (0) and values (1)."""
    return torch.stack([torch.stack(list(map(_relative, x, y))) for x, y in zip(now, then, strict=True)])


class InstrumentedForward:
    """`decoding.step.Forward` that computes all positions, as a locked run reads them, and keeps what it saw.

    Keys and values are those of the step that last computed a row, and no other row reads what was computed beside it.

    Args:
        cfg_scale: above 0, there is an unconditional stream as well, which sees [MASK] in place of the prompt.
        measure_drift, keep_keys_values: fill in `drift` and `kv`.

    Attributes:
        hidden: [B, N, d] of the latest call, guided if asked. `logits`: float32 [B, N, V], likewise.
        drift, kv, fresh_kv: of the conditional stream, or None.
    """

    hidden: Tensor
    logits: Tensor
    drift: KVDrift | None = None
    kv: list[CanvasKV] | None = None
    fresh_kv: list[CanvasKV] | None = None

    def __init__(self, model: Transformer, *, cfg_scale: float, measure_drift: bool, keep_keys_values: bool) -> None:
        self._model = model
        self._cfg_scale = cfg_scale
        self._measure_drift = measure_drift
        self._keep_keys_values = keep_keys_values
        self._last: Forwarded | None = None
        self._rotation: Any = None

    def __call__(self, canvas: Canvases, cells: Tensor) -> Tensor:
        """See `decoding.step.Forward`."""
        tokens, frozen = canvas.tokens, ~canvas.rows
        if self._cfg_scale > 0:
            tokens = torch.cat((tokens, torch.where(canvas.given, self._model.config.mask_token_id, tokens)))
            frozen = frozen.repeat(2, 1)
        if self._rotation is None:
            self._rotation = position_rotation(self._model, *tokens.shape)
        last, num = self._last, canvas.num_slots
        now = forward_canvases(
            self._model,
            tokens,
            None if last is None else Frozen(frozen, last.kv),
            rotation=self._rotation,
            keep_fresh=self._measure_drift or self._keep_keys_values,
        )
        if self._measure_drift:
            self.drift = _drift(now, last, canvas.locked)
        if self._keep_keys_values:
            self.kv, self.fresh_kv = ([CanvasKV(k[:num], v[:num]) for k, v in kv] for kv in (now.kv, now.fresh_kv))
        self._last = now
        self.hidden, self.logits = self._guided(now.hidden), self._guided(logits_of(self._model, now.hidden))
        return self.hidden.flatten(0, 1)[cells]

    def _guided(self, of_streams: Tensor) -> Tensor:
        if self._cfg_scale == 0:
            return of_streams
        conditional, unconditional = of_streams.chunk(2)
        return unconditional + (self._cfg_scale + 1) * (conditional - unconditional)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of every position to every position: q [B, N, H, D], k and v [B, N, H_kv, D] -> [B, N, H, D]."""
    groups = q.shape[2] // k.shape[2]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _drift(now: Forwarded, last: Forwarded | None, locked: Mask) -> KVDrift:
    num, num_layers = len(locked), len(now.kv)
    if last is None:
        unknown = torch.full((num_layers, *locked.shape), torch.nan, device=locked.device)
        return KVDrift(unknown, unknown, unknown, unknown)
    step, frozen = (relative_change(now.fresh_kv, then)[:, :, :num] for then in (last.fresh_kv, last.kv))
    frozen = torch.where(locked, frozen, torch.nan)
    return KVDrift(step[:, 0], step[:, 1], frozen[:, 0], frozen[:, 1])


def _relative(now: Tensor, then: Tensor) -> Tensor:
    """||now - then|| / ||then|| of [B, N, heads, D], float32 [B, N]."""
    before = then.float().flatten(2)
    norm = before.norm(dim=2).clamp_min(torch.finfo(torch.float32).tiny)
    moved: Tensor = (now.float().flatten(2) - before).norm(dim=2) / norm
    return moved
