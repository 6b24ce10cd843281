"""Plain PyTorch streaming KL: one pass over the vocabulary, centred on the running top logit.

With D_v = z_v - z'_v, top = argmax z, c = D_top and w_v = exp(z_v - z_top):
    A0 = sum w,   A1 = sum w (D - c),   E = sum w expm1(-(D - c)),   KL = A1 / A0 + log1p(E / A0)
because log(sum exp z' / sum exp z) = log(sum w exp(-D) / sum w) = -c + log1p(E / A0). Both terms vanish with D - c, so
a small KL is not the difference of two large numbers. Where the posteriors are far apart (KL > 1) that form may
overflow, and the plain one, A1 / A0 + c - log sum exp z + log sum exp z', is exact enough.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surelock.ops.head_logits import Head, copies_head, head_logits_float32

# Elements of one [rows, tokens] part: 8 MiB of float32, 64 MiB on a CUDA device, where every part costs launches.
PART_ELEMENTS = 1 << 21
CUDA_PART_ELEMENTS = 1 << 24
# Its tokens at most, where the part of the head is copied in float32.
PART_TOKENS = 1 << 13
FAR_APART = 1.0


class StepKL(NamedTuple):
    """Per row: kl in nats and uncertainty 1 - max p, both float32 [n]."""

    kl: Tensor
    uncertainty: Tensor


def step_kl(hidden: Tensor, previous: Tensor, head: Head, *, part_elements: int | None = None) -> StepKL:
    """KL(p_t || p_{t-1}) and 1 - max p_t of n rows; shapes in the package's docstring."""
    num_rows = hidden.shape[0]
    if num_rows == 0:
        empty = hidden.new_zeros(0, dtype=torch.float32)
        return StepKL(empty, empty)
    part_elements = part_elements or (CUDA_PART_ELEMENTS if hidden.is_cuda else PART_ELEMENTS)
    width = max(1, part_elements // num_rows)
    if copies_head(hidden):
        width = min(width, PART_TOKENS)
    starts = range(0, head.vocab_size, width)
    both = torch.cat((hidden, previous))
    state = _part(both, head.part(0, width))
    for start in starts[1:]:
        state = _merge(state, _part(both, head.part(start, start + width)))
    total = state.others + 1.0
    near = state.drift / total + torch.log1p(state.excess / total)
    far = state.drift / total + state.centre - state.top - total.log() + state.previous
    # Rounding can leave -1e-8 for equal posteriors; NaN must stay NaN.
    kl = torch.where(far > FAR_APART, far, near).clamp_min(0.0)
    return StepKL(kl, state.others / total)


class _Partial(NamedTuple):
    """Sums over the tokens seen so far, each [n], relative to the top token among them."""

    top: Tensor  # z of the top token
    centre: Tensor  # D of the top token
    others: Tensor  # sum of w over all but the top token: A0 - 1, kept apart so that 1 - max p never cancels
    drift: Tensor  # A1
    excess: Tensor  # E
    previous: Tensor  # log sum exp z'


def _part(both: Tensor, head: Head) -> _Partial:
    # [n, tokens of this part] each
    logits, old_logits = head_logits_float32(both, head).chunk(2)
    change = logits - old_logits
    top, index = logits.max(dim=1, keepdim=True)
    centre = change.gather(1, index)
    offset = logits - top
    weight = offset.exp().scatter_(1, index, 0.0)
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
