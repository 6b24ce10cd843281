"""Posteriors of many rows compared, a part of the rows at a time: a part takes several tensors of its size."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from surelock.models.transformer import Transformer
from surelock.ops.head_logits import head_logits_float32
from surelock.ops.step_kl import StepKL, kl_from_logits

# Elements of one [rows, V] part.
PART_ELEMENTS: Final = 1 << 24


class Comparison(NamedTuple):
    """Two posteriors of each of n rows, [n] each.

    Attributes:
        kl: KL(reference || other) in nats, float32.
        reference_token, other_token: int64, the token each would propose.
    """

    kl: Tensor
    reference_token: Tensor
    other_token: Tensor

    @property
    def flipped(self) -> Tensor:
        """Rows whose proposed token is another one, bool."""
        return self.reference_token != self.other_token

    def at(self, rows: Tensor) -> Comparison:
        """The comparison of some of the rows."""
        return Comparison(*(part[rows] for part in self))


def row_parts(num_rows: int, num_columns: int) -> list[slice]:
    """Slices of at least one row that cover all rows; one empty slice if there is none."""
    size = max(1, PART_ELEMENTS // num_columns)
    return [slice(start, start + size) for start in range(0, max(num_rows, 1), size)]


def logits_of(model: Transformer, hidden: Tensor) -> Tensor:
    """float32 [..., V] of final hidden rows [..., d]."""
    rows = head_logits_float32(hidden.flatten(0, -2), model.lm_head)
    return rows.view(*hidden.shape[:-1], -1)


def kl_between(logits: Tensor, other: Tensor) -> StepKL:
    """KL(logits || other) and 1 - max p of rows [n, V], see `kl_from_logits`."""
    parts = [kl_from_logits(logits[part], other[part]) for part in row_parts(*logits.shape)]
    return StepKL(*(torch.cat(column) for column in zip(*parts, strict=True)))


def compare(reference: Tensor, other: Tensor, mask_token_id: int) -> Comparison:
    """Posteriors given by logits `reference` and `other` [n, V]; [MASK] is never proposed."""
    tokens = (likeliest(logits, mask_token_id) for logits in (reference, other))
    return Comparison(kl_between(reference, other).kl, *tokens)


def likeliest(logits: Tensor, mask_token_id: int) -> Tensor:
    """The likeliest id [n] other than [MASK] of rows [n, V], the first of equals."""
    below, above = logits[:, :mask_token_id], logits[:, mask_token_id + 1 :]
    if not below.shape[1]:
        return above.argmax(1) + mask_token_id + 1
    if not above.shape[1]:
        return below.argmax(1)
    low, high = below.max(1), above.max(1)
    return torch.where(low.values >= high.values, low.indices, high.indices + mask_token_id + 1)
