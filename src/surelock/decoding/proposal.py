"""From final hidden rows to the token each masked position would get, and how sure the model is of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surelock.decoding.noise import Purpose, row_key
from surelock.ops.head_logits import Head, rounded_logits
from surelock.ops.token_stats import token_stats

# Rows of one [rows, V] part of the logits: enough to be worth reading the head for, and in cache at small V.
LOGIT_ROWS = 256
CUDA_LOGIT_ROWS = 1024


@dataclass(frozen=True, slots=True)
class RowParams:
    """Per row [n]: where it is in which request, and how its token is chosen."""

    seed: Tensor
    step: Tensor
    position: Tensor
    temperature: Tensor
    allow_mask: Tensor


def row_keys(rows: RowParams, *, may_sample: bool) -> Tensor:
    """Keys [n] of the rows' noise; those of rows that are not sampled are not read."""
    return row_key(rows.seed, rows.step, rows.position, Purpose.TOKEN) if may_sample else rows.seed


def propose(
    hidden: Tensor,
    head: Head,
    rows: RowParams,
    mask_token_id: int,
    *,
    may_sample: bool = True,
    part_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Token int64 [n] and confidence float32 [n] of hidden rows [n, d].

    token = argmax(logits + temperature * Gumbel) over all ids but MASK (MASK too where allow_mask); confidence = its
    probability under the raw full-vocabulary softmax, NaN if the row's logits are not finite. may_sample=False says
    that no temperature is above 0, which spares asking the device. part_rows logits are held at a time.
    """
    tokens = torch.empty(hidden.shape[0], dtype=torch.int64, device=hidden.device)
    confidence = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    key = row_keys(rows, may_sample=may_sample)
    part_rows = part_rows or (CUDA_LOGIT_ROWS if hidden.is_cuda else LOGIT_ROWS)
    for start in range(0, hidden.shape[0], part_rows):
        part = slice(start, start + part_rows)
        stats = token_stats(
            rounded_logits(hidden[part], head),
            mask_token_id=mask_token_id,
            allow_mask=rows.allow_mask[part],
            temperature=rows.temperature[part],
            key=key[part],
            may_sample=may_sample,
            choice_only=True,
        )
        tokens[part], confidence[part] = stats.token, stats.probability
    return tokens, confidence
