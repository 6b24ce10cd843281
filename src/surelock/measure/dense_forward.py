"""The forward of the dense decoder: every position computed, keys and values of locked ones replaced by frozen ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask
from surelock.measure.dense_layers import dense_layers, logits_of, position_rotation
from surelock.measure.dense_state import KeysValues, KVDrift
from surelock.models.transformer import Transformer


class DenseForward:
    """The model over all positions of all canvases, and the keys and values that are frozen.

    given: [B, N] bool, if the model is to be guided: the unconditional stream sees MASK there.
    """

    def __init__(
        self, model: Transformer, *, given: Mask | None, cfg_scale: float, with_drift: bool, with_keys_values: bool
    ) -> None:
        self._model = model
        self._with_drift = with_drift
        self._with_keys_values = with_keys_values
        self._given = given
        self._cfg_scale = cfg_scale
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._fresh: list[tuple[Tensor, Tensor]] = []
        self._rotation: Any = None

    @torch.no_grad()
    def __call__(
        self, tokens: Tensor, locked: Mask, refreshed: Mask
    ) -> tuple[Tensor, Tensor, KVDrift | None, tuple[KeysValues, ...] | None]:
        """Hidden rows [B, N, d] and logits float32 [B, N, V] of tokens [B, N], and what was asked to be measured."""
        model, (num, length) = self._model, tokens.shape
        if self._given is not None:
            mask_id = model.config.mask_token_id
            tokens = torch.cat((tokens, torch.where(self._given, mask_id, tokens)))
            locked, refreshed = locked.repeat(2, 1), refreshed.repeat(2, 1)
        if self._rotation is None:
            self._rotation = position_rotation(model, len(tokens), length)
        # [B, N, 1, 1]
        frozen = (locked & ~refreshed)[:, :, None, None]
        drifts, kept, fresh, seen = [], [], [], []

        def replace(index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            if self._kept:
                old_keys, old_values = self._kept[index]
                keys, values = torch.where(frozen, old_keys, k), torch.where(frozen, old_values, v)
            else:
                keys, values = k, v
            if self._with_drift:
                drifts.append(self._drift(index, k[:num], v[:num], locked[:num]))
                fresh.append((k, v))
            if self._with_keys_values:
                seen.append(KeysValues(keys[:num], values[:num], k[:num], v[:num]))
            kept.append((keys, values))
            return keys, values

        hidden = dense_layers(model, tokens, replace, self._rotation)
        self._kept, self._fresh = kept, fresh
        logits = logits_of(model, hidden)
        if self._given is not None:
            hidden, logits = self._guided(hidden), self._guided(logits)
        drift = KVDrift(*(torch.stack(of_layers) for of_layers in zip(*drifts, strict=True))) if drifts else None
        return hidden, logits, drift, tuple(seen) or None

    def _guided(self, of_streams: Tensor) -> Tensor:
        conditional, unconditional = of_streams.chunk(2)
        return unconditional + (self._cfg_scale + 1) * (conditional - unconditional)

    def _drift(self, index: int, k: Tensor, v: Tensor, locked: Mask) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors of `KVDrift` for one layer, [B, N] each."""
        unknown = torch.full(locked.shape, torch.nan, device=locked.device)
        if not self._fresh:
            return unknown, unknown, unknown, unknown
        num = len(locked)
        (k_before, v_before), (k_kept, v_kept) = self._fresh[index], self._kept[index]
        keys, values = _relative(k, k_kept[:num]), _relative(v, v_kept[:num])
        return (
            _relative(k, k_before[:num]),
            _relative(v, v_before[:num]),
            torch.where(locked, keys, torch.nan),
            torch.where(locked, values, torch.nan),
        )


def _relative(now: Tensor, then: Tensor) -> Tensor:
    """||now - then|| / ||then|| of [B, N, heads, D], float32 [B, N]."""
    before = then.float().flatten(2)
    norm = before.norm(dim=2).clamp_min(torch.finfo(torch.float32).tiny)
    moved: Tensor = (now.float().flatten(2) - before).norm(dim=2) / norm
    return moved
