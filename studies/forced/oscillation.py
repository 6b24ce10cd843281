"""Positions whose likeliest token alternates, in a run without locks: how often, between which tokens, and how much the
posterior moves as it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surelock.measure.forced.lockstep import ForcedStep as TwinStep
from surelock.measure.posteriors import row_parts
from surelock.models.transformer import Transformer
from surelock.ops.step_kl import kl_from_logits

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
        self._previous: Tensor | None = None
        self._given: Array | None = None

    def take(self, twin: TwinStep) -> None:
        """Note a step; they come in order."""
        logits, mask = twin.fresh_logits, twin.model.config.mask_token_id
        shape, rows = twin.inputs.shape, logits.flatten(0, 1)
        parts = row_parts(*rows.shape)
        values, tokens = (
            torch.cat(found) for found in zip(*(_top_two(rows[part], mask) for part in parts), strict=True)
        )
        kl = torch.full(shape, torch.inf, device=logits.device)
        if self._previous is not None:
            before = self._previous.flatten(0, 1)
            kl = torch.cat([kl_from_logits(rows[part], before[part]).kl for part in parts]).view(shape)
        ratio = (values[:, 1] - values[:, 0]).exp()
        found = (tokens[:, 0].view(shape), tokens[:, 1].view(shape), ratio.view(shape), kl, twin.masked)
        self._steps.append(tuple(each.cpu().numpy() for each in found))
        self._previous = logits
        self._given = twin.given.cpu().numpy()

    @property
    def tops(self) -> Tops:
        """Everything noted."""
        return Tops(*(np.stack(part) for part in zip(*self._steps, strict=True)))

    @property
    def given(self) -> Array:
        """[B, N], positions of the prompts."""
        assert self._given is not None, "no step was taken"
        return self._given

    def moves(self, state: str) -> Moves:
        """All rows of a state: `masked`, `generated` (visible) or `prompt`."""
        tops = self.tops
        in_state = _in_state(tops, self.given, state)
        here = in_state[1:] & in_state[:-1]
        first = tops.first
        flipped = first[1:] != first[:-1]
        returned = np.zeros_like(flipped)
        returned[1:] = flipped[1:] & (first[2:] == first[:-2]) & in_state[:-2]
        return Moves(
            *(
                part[here]
                for part in (
                    tops.kl[1:], flipped, flipped & (first[1:] == tops.second[:-1]), returned,
                    tops.ratio[1:] >= NEAR_TIE, first[:-1], first[1:],
                )
            )
        )  # fmt: skip

    def num_flips(self, state: str) -> Array:
        """[B, N], flips of each position while it is in the state."""
        flips: Array = self.flips_in(state).sum(0)
        return flips

    def flips_in(self, state: str) -> Array:
        """[T, B, N], whether the position's likeliest token changed on entering the step, in the state both times."""
        tops = self.tops
        in_state = _in_state(tops, self.given, state)
        flips = np.zeros_like(in_state)
        flips[1:] = in_state[1:] & in_state[:-1] & (tops.first[1:] != tops.first[:-1])
        return flips


def _top_two(rows: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """The two largest logits and their ids, [n, 2] each, of rows [n, V], MASK left out."""
    allowed = rows.clone()
    allowed[:, mask_token_id] = -torch.inf
    values, tokens = allowed.topk(2, dim=1)
    return values, tokens


def _in_state(tops: Tops, given: Array, state: str) -> Array:
    if state == "prompt":
        return np.broadcast_to(given, tops.masked.shape)
    return tops.masked if state == "masked" else ~tops.masked & ~given


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike tokens are, by the cosine of their rows of the head.

    Attributes:
        weight: [V, d], rows of length 1.
    """

    weight: Tensor

    @classmethod
    def of(cls, model: Transformer) -> Likeness:
        """By the model's own head."""
        return cls(torch.nn.functional.normalize(model.lm_head.weight.float(), dim=1))

    def __call__(self, a: Array, b: Array) -> Array:
        """Cosines of pairs of token ids [n]."""
        cosines: Array = torch.cat(list(self._parts(a, b))).cpu().numpy() if len(a) else np.zeros(0)
        return cosines

    def _parts(self, a: Array, b: Array) -> Iterator[Tensor]:
        device = self.weight.device
        pairs = torch.as_tensor(np.stack((a, b)), device=device)
        for part in row_parts(len(a), self.weight.shape[1]):
            yield (self.weight[pairs[0, part]] * self.weight[pairs[1, part]]).sum(1)
