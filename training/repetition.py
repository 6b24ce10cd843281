"""Unlikelihood of repetition: the model decodes continuations of its own, and what completed a repeated trigram counts
against it.

A model of this size, decoded greedily, says the same phrase over and over, and cross entropy never shows it a canvas
that has begun to. Sequence-level unlikelihood training (Welleck et al., "Neural text generation with unlikelihood
training", 2020) does; here a position is held to account for the canvas as it was before it was decided.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import fmean
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from surelock.measure.metrics import distinct_n
from training.batches import MASK
from training.canvas import PROMPT_LENGTH
from training.model import MaskedDiffusionModel, half_precision

NGRAM: Final = 3
# Generated tokens of the canvases of one pool, and their shares; every canvas is decoded in as many steps.
LENGTHS: Final = {64: 0.4, 128: 0.4, 256: 0.2}
NUM_STEPS: Final = 64
# Keeps the logarithm of 1 - p finite; what is surer than that is past teaching by it.
MAX_PROBABILITY: Final = 1 - 1e-5


@torch.no_grad()
def decode(model: MaskedDiffusionModel, prompts: Tensor, num_generated: int) -> tuple[Tensor, Tensor]:
    """Greedy low-confidence decoding in one block of NUM_STEPS steps; prompts [B, P], num_generated a multiple of them.

    Returns tokens [B, N] and the step that decided each, [B, N], -1 for the prompt.
    """
    start = prompts.size(1)
    tokens = F.pad(prompts, (0, num_generated), value=MASK)
    decided = torch.full_like(tokens, -1)
    for step in range(NUM_STEPS):
        with half_precision(tokens.device):
            # [B, G, V]
            logits = _logits(model, tokens)[:, start:].float()
        logits[..., MASK] = -torch.inf
        confidence, chosen = logits.softmax(-1).max(-1)
        confidence = confidence.masked_fill(tokens[:, start:] != MASK, -1)
        # [B, num_generated / NUM_STEPS]
        places = confidence.topk(num_generated // NUM_STEPS, dim=1).indices
        tokens[:, start:].scatter_(1, places, chosen.gather(1, places))
        decided[:, start:].scatter_(1, places, step)
    return tokens, decided


def completes_repeat(tokens: Tensor, decided: Tensor) -> Tensor:
    """Which positions were the last of an n-gram that stood elsewhere in the canvas before; tokens, decided [B, N].

    Of two equal n-grams the one completed later is the repeat, by position if in one step. Prompts (decided -1) are
    never to blame.
    """
    # [B, N - n + 1, n]
    grams, steps = tokens.unfold(1, NGRAM, 1), decided.unfold(1, NGRAM, 1)
    # [B, N - n + 1]: 12 bits a token would do for this vocabulary; 20 keep three apart for any.
    codes = sum(grams[..., i] << (20 * (NGRAM - 1 - i)) for i in range(NGRAM))
    assert isinstance(codes, Tensor)
    completed = steps.amax(-1)
    order = completed * tokens.size(1) + torch.arange(codes.size(1), device=tokens.device)
    earlier = (codes[:, :, None] == codes[:, None, :]) & (order[:, None, :] < order[:, :, None])
    repeats = earlier.any(-1) & (completed >= 0)
    blamed = torch.zeros_like(tokens, dtype=torch.bool)
    for i in range(NGRAM):
        blamed[:, i : i + codes.size(1)] |= repeats & (steps[..., i] == completed)
    return blamed


def unlikelihood(logits: Tensor, tokens: Tensor) -> Tensor:
    """-log(1 - p) of each token [M] under logits [M, V], in nats; without gradient where p is above MAX_PROBABILITY."""
    chosen = logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0].exp()
    return -torch.log1p(-chosen.clamp(max=MAX_PROBABILITY))


def distinct_trigrams(tokens: Tensor) -> float:
    """Different n-grams over all of them, mean over the rows of tokens [B, N]."""
    return fmean(distinct_n(row, NGRAM) for row in tokens.tolist())


class SelfDecoded:
    """A pool of canvases the model decoded a while ago, and the loss of their repeats."""

    def __init__(
        self, model: MaskedDiffusionModel, text: Callable[[int], Tensor], num_tokens: int, device: torch.device
    ) -> None:
        """`text` gives a stretch of so many tokens; `num_tokens`: in a pool, and, a quarter of them, in one loss."""
        self._model, self._text, self._device = model, text, device
        self._num_tokens, self._rng = num_tokens, random.Random(0)
        self.distinct = 0.0

    def refill(self) -> None:
        """Decode a new pool with the weights as they are now; its canvases are of one length."""
        generated = self._rng.choices(list(LENGTHS), list(LENGTHS.values()))[0]
        batch = max(4, self._num_tokens // (PROMPT_LENGTH + generated))
        prompts = torch.stack([self._text(PROMPT_LENGTH) for _ in range(batch)]).to(self._device)
        self._tokens, self._decided = decode(self._model, prompts, generated)
        self._blamed = completes_repeat(self._tokens, self._decided)
        self.distinct = distinct_trigrams(self._tokens[:, PROMPT_LENGTH:])

    def loss(self) -> Tensor:
        """Sum over the repeats still masked in a random step of each canvas of a quarter of the pool."""
        chosen = torch.randperm(self._tokens.size(0), device=self._device)[: max(1, self._tokens.size(0) // 4)]
        tokens, decided = self._tokens[chosen], self._decided[chosen]
        step = torch.randint(0, NUM_STEPS, (tokens.size(0), 1), device=self._device)
        masked = decided >= step
        with half_precision(self._device):
            logits = _logits(self._model, torch.where(masked, MASK, tokens))
        weights = (masked & self._blamed[chosen]).float()
        return (unlikelihood(logits, tokens) * weights).sum()


def _logits(model: MaskedDiffusionModel, tokens: Tensor) -> Tensor:
    """[B, N, V] of canvases of one length [B, N]."""
    batch, length = tokens.shape
    positions = torch.arange(length, device=tokens.device).repeat(batch)
    starts = torch.arange(batch + 1, device=tokens.device, dtype=torch.int32) * length
    logits: Tensor = model(tokens.flatten(), positions, starts)
    return logits.view(batch, length, -1)
