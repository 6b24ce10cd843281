"""Plain PyTorch streaming KL: one pass over the vocabulary, centred on the running top logit.

With D_v = z_v - z'_v, top = argmax z, c = D_top and w_v = exp(z_v - z_top):
    A0 = sum w,   A1 = sum w (D - c),   E = sum w expm1(-(D - c)),   KL = A1 / A0 + log1p(E / A0)
because log(sum exp z' / sum exp z) = log(sum w exp(-D) / sum w) = -c + log1p(E / A0). Both terms vanish with D - c, so
a small KL is not the difference of two large numbers. Where the posteriors are far apart (KL > 1) that form may
overflow, and the plain one, A1 / A0 + c - log sum exp z + log sum exp z', is exact enough. So it is where the top logit
of a flat posterior moves far: the posteriors stay near, and E overflows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

# Elements of one [rows, tokens] part: 8 MiB of float32, 64 MiB on a CUDA device, where every part costs launches.
PART_ELEMENTS = 1 << 21
CUDA_PART_ELEMENTS = 1 << 24
FAR_APART = 1.0
# Nats that the top logit moves against the mean of the others: e ** 32 over a whole vocabulary is far from overflowing.
MOVED_FAR = 32.0


class StepKL(NamedTuple):
    """Per row: kl in nats and uncertainty 1 - max p, both float32 [n]."""

    kl: Tensor
    uncertainty: Tensor

    @classmethod
    def empty(cls, num_rows: int, device: torch.device) -> StepKL:
        """Uninitialised."""
        return cls(*(torch.empty(num_rows, dtype=torch.float32, device=device) for _ in cls._fields))


def kl_from_logits(logits: Tensor, previous: Tensor) -> StepKL:
    """KL(p_t || p_{t-1}) and 1 - max p_t of n rows; shapes in the package's docstring."""
    num_rows, num_tokens = logits.shape
    if num_rows == 0:
        return StepKL.empty(0, logits.device)
    width = max(1, (CUDA_PART_ELEMENTS if logits.is_cuda else PART_ELEMENTS) // num_rows)
    parts = (slice(start, start + width) for start in range(0, num_tokens, width))
    return of_parts((logits[:, part], previous[:, part]) for part in parts)


def of_parts(parts: Iterable[Sequence[Tensor]]) -> StepKL:
    """The same, of logits and previous logits [n, tokens] of consecutive parts of the vocabulary, one at a time."""
    state = reduce(_merge, (_part(logits, old_logits) for logits, old_logits in parts))
    total = state.others + 1.0
    near = state.drift / total + torch.log1p(state.excess / total)
    far = state.drift / total + state.centre - state.top - total.log() + state.previous
    # Rounding can leave -1e-8 for equal posteriors; NaN must stay NaN, also where only `far` is.
    is_near = (far <= FAR_APART) & ((state.drift / total).abs() <= MOVED_FAR)
    kl = torch.where(is_near, near, far).clamp_min(0.0)
    return StepKL(kl, state.others / total)


class _Partial(NamedTuple):
    """Sums over the tokens seen so far, each [n], relative to the top token among them."""

    top: Tensor  # z of the top token
    centre: Tensor  # D of the top token
    others: Tensor  # sum of w over all but the top token: A0 - 1, kept apart so that 1 - max p never cancels
    drift: Tensor  # A1
    excess: Tensor  # E
    previous: Tensor  # log sum exp z'


def _part(logits: Tensor, old_logits: Tensor) -> _Partial:
    # [n, tokens of this part] each
    change = logits - old_logits
    top, index = logits.max(dim=1, keepdim=True)
    centre = change.gather(1, index)
    offset = logits - top
    # 0 for the top token, and NaN if its logit is not finite.
    weight = offset.exp().scatter_(1, index, offset.gather(1, index))
    change -= centre
    drift = (weight * change).sum(1)
    excess = _excess(offset, change, weight).sum(1)
    return _Partial(top.squeeze(1), centre.squeeze(1), weight.sum(1), drift, excess, old_logits.logsumexp(1))


def _excess(offset: Tensor, change: Tensor, weight: Tensor) -> Tensor:
    """weight * expm1(-change) with weight = exp(offset), finite where exp(-change) alone would overflow."""
    moved = (offset - change).clamp_max(80.0).exp()
    return torch.where(change.abs() < 1.0, weight * torch.expm1(-change), moved - weight)


def _merge(a: _Partial, b: _Partial) -> _Partial:
    """Bring both parts to the larger top logit and its centre, then add."""
    a_wins = a.top >= b.top
    first = _Partial(*(torch.where(a_wins, x, y) for x, y in zip(a, b, strict=True)))
    second = _Partial(*(torch.where(a_wins, y, x) for x, y in zip(a, b, strict=True)))
    offset = second.top - first.top
    factor = offset.exp()
    shift = second.centre - first.centre
    mass = second.others + 1.0
    # For the tokens of the second part, D - c_new = (D - c_old) + shift.
    drift = second.drift + mass * shift
    rescaled = (offset - shift).clamp_max(80.0).exp() * second.excess
    return _Partial(
        first.top,
        first.centre,
        first.others + factor * mass,
        first.drift + factor * drift,
        first.excess + rescaled + mass * _excess(offset, shift, factor),
        torch.logaddexp(first.previous, second.previous),
    )
