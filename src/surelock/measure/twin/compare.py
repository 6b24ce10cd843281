"""How far two posteriors of the same rows are apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surelock.measure.parts import rows_at_a_time
from surelock.ops.step_kl import kl_from_logits


class Comparison(NamedTuple):
    """Of n rows, each [n].

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
        """Of some of the rows."""
        return Comparison(*(part[rows] for part in self))


def compare(reference: Tensor, other: Tensor, mask_token_id: int) -> Comparison:
    """Posteriors given by logits `reference` and `other` [n, V]; [MASK] is never proposed."""
    size = rows_at_a_time(reference.shape[1])
    parts = [
        _compare(a, b, mask_token_id)
        for a, b in zip(torch.split(reference, size), torch.split(other, size), strict=True)
    ]
    return Comparison(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _compare(reference: Tensor, other: Tensor, mask_token_id: int) -> Comparison:
    return Comparison(
        kl_from_logits(reference, other).kl, _proposed(reference, mask_token_id), _proposed(other, mask_token_id)
    )


def _proposed(logits: Tensor, mask_token_id: int) -> Tensor:
    below, above = logits[:, :mask_token_id], logits[:, mask_token_id + 1 :]
    if not below.shape[1]:
        return above.argmax(1) + mask_token_id + 1
    if not above.shape[1]:
        return below.argmax(1)
    low, high = below.max(1), above.max(1)
    return torch.where(low.values >= high.values, low.indices, high.indices + mask_token_id + 1)
