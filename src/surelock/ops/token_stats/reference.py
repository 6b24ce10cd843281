"""Plain PyTorch, some rows at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surelock.ops.noise import gumbel

# Rows of one float32 [rows, V] part: in cache at small V, and never growing with the canvas.
PART_ROWS = 256
# Rows of one part of the float64 noise, likewise.
NOISE_ROWS = 16
# exp(-200) is 0 in float32, so a logit this far below the top counts as much as one at -inf.
FAR_BELOW = 200.0


class TokenStats(NamedTuple):
    """Per row, each [n]: token int64, the others float32; what they are stands in the package's docstring."""

    token: Tensor
    probability: Tensor
    top_probability: Tensor
    second_probability: Tensor
    entropy: Tensor

    @classmethod
    def empty(cls, num_rows: int, device: torch.device) -> TokenStats:
        """Uninitialised."""
        numbers = (torch.empty(num_rows, dtype=torch.float32, device=device) for _ in cls._fields[1:])
        return cls(torch.empty(num_rows, dtype=torch.int64, device=device), *numbers)


def token_stats(
    logits: Tensor,
    *,
    mask_token_id: int,
    allow_mask: Tensor,
    temperature: Tensor,
    key: Tensor,
    may_sample: bool,
    rounding: torch.dtype | None = None,
    choice_only: bool = False,
) -> TokenStats:
    """Statistics of n rows; shapes in the package's docstring. Waits for the device if may_sample."""
    stats = TokenStats.empty(logits.shape[0], logits.device)
    for start in range(0, logits.shape[0], PART_ROWS):
        part = slice(start, start + PART_ROWS)
        # [rows, V]
        z = (logits[part] if rounding is None else logits[part].to(rounding)).float()
        # MASK steps aside while the token is chosen: a copy of the logits would take longer.
        of_mask = z[:, mask_token_id].clone()
        z[:, mask_token_id].masked_fill_(~allow_mask[part], -torch.inf)
        token = _sampled(z, temperature[part], key[part]) if may_sample else _first_largest(z)
        z[:, mask_token_id] = of_mask
        # Not exp(z - logsumexp): its rounding would swamp the differences between nearly certain rows.
        probability = z.softmax(1)
        if choice_only:
            stats.token[part], stats.probability[part] = token, _of(probability, token)
            continue
        for whole, found in zip(stats, _statistics(z, probability, token), strict=True):
            whole[part] = found
    return stats


def _of(probability: Tensor, token: Tensor) -> Tensor:
    return probability.gather(1, token.unsqueeze(1)).squeeze(1)


def _statistics(z: Tensor, probability: Tensor, token: Tensor) -> TokenStats:
    top_probability, top = probability.max(1, keepdim=True)
    chosen = _of(probability, token)
    others = probability.scatter_(1, top, 0.0)
    below = (z.gather(1, top) - z).clamp_max_(FAR_BELOW)
    entropy = torch.log1p(others.sum(1) / top_probability.squeeze(1)) + below.mul_(others).sum(1)
    return TokenStats(token, chosen, top_probability.squeeze(1), others.amax(1), entropy)


def _sampled(scores: Tensor, temperature: Tensor, key: Tensor) -> Tensor:
    token = _first_largest(scores)
    noisy = (temperature > 0).nonzero().squeeze(1)
    for index in torch.split(noisy, NOISE_ROWS):
        noise = gumbel(key[index], scores.shape[1])
        token[index] = _first_largest(scores[index] + temperature[index].unsqueeze(1) * noise)
    return token


def _first_largest(scores: Tensor) -> Tensor:
    """argmax over each row, the lowest index of equals; torch's own takes more than twice as long on a CPU."""
    return scores.max(1).indices
