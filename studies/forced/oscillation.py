"""Positions whose likeliest token alternates, in a run without locks: how often, between which tokens, and how much the
posterior moves as it does.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surelock.measure.instrumented import MeasuredStep
from surelock.measure.posteriors import row_parts
from surelock.models.transformer import Transformer

# A runner-up with at least this share of the likeliest token's probability makes a near tie.
NEAR_TIE: Final = 0.5
STATES: Final = ("masked", "generated", "prompt")

Array = NDArray[Any]


class Tops(NamedTuple):
    """The two likeliest tokens of every row, MASK left out, and how far the row moved: [T, B, N] each."""

    first: Array
    second: Array
    ratio: Array
    kl: Array
    masked: Array


class Moves(NamedTuple):
    """Rows of one state that were in it in the preceding step too, [n] each.

    Attributes:
        kl: KL(p_t || p_{t-1}).
        flipped: the likeliest token is another one. `swapped`: it was the runner-up. `returned`: it is that of two
            steps before again.
        near_tie: of the row now.
        before, now: the likeliest tokens.
    """

    kl: Array
    flipped: Array
    swapped: Array
    returned: Array
    near_tie: Array
    before: Array
    now: Array


class History:
    """Collects the steps of canvases without locks."""

    def __init__(self) -> None:
        self._steps: list[tuple[Array, ...]] = []

    def take(self, step: MeasuredStep, mask_token_id: int) -> None:
        """Note a step; they come in order."""
        rows, shape = step.logits.flatten(0, 1), step.inputs.shape
        tops = [_top_two(rows[part], mask_token_id) for part in row_parts(*rows.shape)]
        values, tokens = (torch.cat(found) for found in zip(*tops, strict=True))
        ratio = (values[:, 1] - values[:, 0]).exp()
        found = (tokens[:, 0].view(shape), tokens[:, 1].view(shape), ratio.view(shape), step.kl, step.masked)
        self._steps.append(tuple(each.cpu().numpy() for each in found))

    @property
    def given(self) -> Array:
        """[B, N], positions of the prompts."""
        given: Array = ~self._steps[0][-1]
        return given

    @property
    def tops(self) -> Tops:
        """Everything noted."""
        return Tops(*(np.stack(part) for part in zip(*self._steps, strict=True)))

    def moves(self, state: str) -> Moves:
        """All rows of a state: `masked`, `generated` (visible) or `prompt`."""
        tops, in_state = self.tops, self._in_state(state)
        here, first = in_state[1:] & in_state[:-1], tops.first
        flipped = first[1:] != first[:-1]
        returned = np.zeros_like(flipped)
        returned[1:] = flipped[1:] & (first[2:] == first[:-2]) & in_state[:-2]
        swapped, near_tie = flipped & (first[1:] == tops.second[:-1]), tops.ratio[1:] >= NEAR_TIE
        return Moves(
            *(part[here] for part in (tops.kl[1:], flipped, swapped, returned, near_tie, first[:-1], first[1:]))
        )

    def flips_in(self, state: str) -> Array:
        """[T, B, N], whether the position's likeliest token changed on entering the step, in the state both times."""
        first, in_state = self.tops.first, self._in_state(state)
        flips = np.zeros_like(in_state)
        flips[1:] = in_state[1:] & in_state[:-1] & (first[1:] != first[:-1])
        return flips

    def _in_state(self, state: str) -> Array:
        masked = self.tops.masked
        of_state = {"masked": masked, "generated": ~masked & ~self.given, "prompt": self.given}[state]
        return np.broadcast_to(of_state, masked.shape)


def _top_two(rows: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """The two largest logits and their ids, [n, 2] each, of rows [n, V], MASK left out."""
    allowed = rows.clone()
    allowed[:, mask_token_id] = -torch.inf
    values, tokens = allowed.topk(2, dim=1)
    return values, tokens


class Likeness:
    """How alike tokens are, by the cosine of their rows of the head.

    weight: [V, d], rows of length 1.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    @classmethod
    def of(cls, model: Transformer) -> Likeness:
        """By the model's own head."""
        return cls(torch.nn.functional.normalize(model.lm_head.weight.float(), dim=1))

    def __call__(self, a: Array, b: Array) -> Array:
        """Cosines of pairs of token ids [n]."""
        pairs = torch.as_tensor(np.stack((a, b)), device=self._weight.device)
        parts = row_parts(len(a), self._weight.shape[1])
        cosines: Array = torch.cat([self._weight[pairs[:, part]].prod(0).sum(1) for part in parts]).cpu().numpy()
        return cosines
