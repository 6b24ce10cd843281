"""From final hidden rows to the token each masked position would get, and how sure the model is of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surelock.decoding.noise import gumbel
from surelock.ops.head_logits import Head, head_logits

# Rows of one [rows, V] part of the logits: enough to be worth reading the head for, and in cache at small V.
LOGIT_ROWS = 256
# Rows of one part of the float64 noise, which stays in cache at small V and never grows with the canvas.
NOISE_ROWS = 16


@dataclass(frozen=True, slots=True)
class RowParams:
    """Per row [n]: where it is in which request, and how its token is chosen."""

    seed: Tensor
    step: Tensor
    position: Tensor
    temperature: Tensor
    allow_mask: Tensor


def propose(
    hidden: Tensor,
    head: Head,
    rows: RowParams,
    mask_token_id: int,
    *,
    may_sample: bool = True,
    part_rows: int = LOGIT_ROWS,
) -> tuple[Tensor, Tensor]:
    """Token int64 [n] and confidence float32 [n] of hidden rows [n, d].

    token = argmax(logits + temperature * Gumbel) over all ids but MASK (MASK too where allow_mask); confidence = its
    probability under the raw full-vocabulary softmax, NaN if the row's logits are not finite. may_sample=False says
    that no temperature is above 0, which spares asking the device.
    """
    tokens = torch.empty(hidden.shape[0], dtype=torch.int64, device=hidden.device)
    confidence = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    for start in range(0, hidden.shape[0], part_rows):
        part = slice(start, start + part_rows)
        logits = head_logits(hidden[part], head)
        # Not exp(logit - logsumexp): its rounding would swamp the differences between nearly certain rows.
        probability = logits.softmax(1)
        logits[:, mask_token_id].masked_fill_(~rows.allow_mask[part], -torch.inf)
        tokens[part] = _choose(logits, rows, part) if may_sample else logits.argmax(1)
        confidence[part] = probability.gather(1, tokens[part].unsqueeze(1)).squeeze(1)
    return tokens, confidence


def _choose(logits: Tensor, rows: RowParams, part: slice) -> Tensor:
    tokens = logits.argmax(1)
    temperature = rows.temperature[part]
    noisy = (temperature > 0).nonzero().squeeze(1)
    for first in range(0, len(noisy), NOISE_ROWS):
        index = noisy[first : first + NOISE_ROWS]
        seed, step, position = rows.seed[part][index], rows.step[part][index], rows.position[part][index]
        noise = gumbel(seed, step, position, logits.shape[1])
        tokens[index] = (logits[index] + temperature[index].unsqueeze(1) * noise).argmax(1)
    return tokens
