"""Training rows: exactly the canvases decoding sees, and which of their positions are masked.

A canvas ends where decoding's canvas ends: prompt, answer, end of turn, and end-of-text fill up to the generation
length, nothing beyond. How its masks are drawn, by share of the rows:

- plain: every position of the generation masked with probability t ~ U(0, 1) (LLaDA's objective).
- block: what semi-autoregressive decoding sees: all visible before a block, all masked after it, t inside.
- ahead: all visible before a random cut, all masked after it, and only the next positions count. A result that is
  written more than once must then be computed: no later copy of it can be read.
- digits: t among the digits and far fewer among the rest, which is how a canvas looks when the easy tokens have been
  decided and the results have not.
- span: a stretch in the middle, as infilling sees it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.problems import EOS, Example, Tokens

MAX_LENGTH: Final = 512
# Longest canvas of a problem.
MAX_TURN_CANVAS: Final = 416
BLOCK_LENGTH: Final = 32
# How far ahead of a cut a prediction counts in full.
HORIZON: Final = 24
FILL_WEIGHT: Final = 0.15
BEYOND_HORIZON_WEIGHT: Final = 0.1

TURN_MASKS: Final = {"plain": 0.38, "block": 0.17, "ahead": 0.22, "digits": 0.18, "span": 0.05}
TEXT_MASKS: Final = {"plain": 0.3, "continue": 0.5, "block": 0.1, "span": 0.1}
TEXT_LENGTHS: Final = {128: 0.35, 192: 0.2, 320: 0.3, 512: 0.15}
PROMPT_LENGTH: Final = 64


@dataclass(frozen=True, slots=True)
class Row:
    """One canvas: ids [N], which of them are masked [N], and how much each masked one counts [N] (0 elsewhere)."""

    kind: str
    tokens: Tokens
    masked: NDArray[np.bool_]
    weights: NDArray[np.float32]


def turn_row(
    rng: random.Random, noise: np.random.Generator, example: Example, is_digit: NDArray[np.bool_]
) -> Row | None:
    """The canvas of a prompt and its answer, fitted or with fill; None if it would be too long."""
    length = _generation_length(rng, example.answer.size)
    start = example.prompt.size
    if start + length > MAX_TURN_CANVAS:
        return None
    tokens = np.full(start + length, EOS, np.int64)
    tokens[:start] = example.prompt
    tokens[start : start + example.answer.size] = example.answer
    base = np.ones(tokens.size, np.float32)
    base[start + example.answer.size :] = FILL_WEIGHT

    mask = _pick(rng, TURN_MASKS)
    masked = np.zeros(tokens.size, np.bool_)
    generation = masked[start:]
    answer_end = example.answer.size
    if mask == "plain":
        generation[:] = _at_rate(noise, length, rng.random())
    elif mask == "block":
        _mask_block(rng, noise, generation, last=answer_end)
    elif mask == "ahead":
        cut = rng.randrange(answer_end)
        generation[cut:] = True
        base[start + cut + HORIZON :] *= BEYOND_HORIZON_WEIGHT
    elif mask == "digits":
        digit = is_digit[tokens[start:]]
        generation[:] = np.where(
            digit, _at_rate(noise, length, rng.uniform(0.2, 1)), _at_rate(noise, length, rng.random() ** 2)
        )
    else:
        _mask_span(rng, generation, answer_end)
    return _row(example.kind, tokens, masked, base, float(answer_end))


def text_row(rng: random.Random, noise: np.random.Generator, tokens: Tokens) -> Row:
    """A stretch of running text as a canvas."""
    length = tokens.size
    masked = np.zeros(length, np.bool_)
    mask = _pick(rng, TEXT_MASKS)
    start = 0
    if mask in ("continue", "block"):
        start = PROMPT_LENGTH if length > 2 * PROMPT_LENGTH else length // 2
        if rng.random() < 0.4:
            start = rng.randint(1, length // 2)
    if mask in ("plain", "continue"):
        masked[start:] = _at_rate(noise, length - start, rng.random())
    elif mask == "block":
        _mask_block(rng, noise, masked[start:], last=length - start)
    else:
        _mask_span(rng, masked, length)
    return _row("text", tokens, masked, np.ones(length, np.float32), float(length - start))


def _generation_length(rng: random.Random, answer: int) -> int:
    """Half of the canvases are fitted to the answer, the others have room to spare."""
    fitted = -(-answer // BLOCK_LENGTH) * BLOCK_LENGTH
    share = rng.random()
    if share < 0.5:
        return fitted
    if share < 0.75:
        return fitted + BLOCK_LENGTH * rng.randint(1, 4)
    return answer + rng.randint(0, 3 * BLOCK_LENGTH)


def _at_rate(noise: np.random.Generator, length: int, rate: float) -> NDArray[np.bool_]:
    return noise.random(length) < rate


def _mask_block(rng: random.Random, noise: np.random.Generator, generation: NDArray[np.bool_], *, last: int) -> None:
    """Visible before a block, masked after it; `last`: the block starts before it."""
    length = generation.size
    block = BLOCK_LENGTH if rng.random() < 0.8 else rng.choice((8, 16, 64))
    begin = rng.randrange(-(-last // block)) * block
    end = min(begin + block, length)
    generation[begin:end] = _at_rate(noise, end - begin, rng.random())
    generation[end:] = True


def _mask_span(rng: random.Random, generation: NDArray[np.bool_], length: int) -> None:
    size = rng.randint(1, max(1, length // 2))
    begin = rng.randint(0, length - size)
    generation[begin : begin + size] = True


def _row(kind: str, tokens: Tokens, masked: NDArray[np.bool_], base: NDArray[np.float32], importance: float) -> Row:
    """`importance` spread over the masked positions in proportion to `base`: the 1/t of the objective, per row."""
    if not masked.any():
        masked[int(np.argmax(base * (np.arange(tokens.size) >= tokens.size - importance)))] = True
    weights = np.where(masked, base, 0).astype(np.float32)
    weights *= importance / max(float(weights.sum()), 1.0)
    return Row(kind, tokens, masked, weights)


def _pick(rng: random.Random, shares: dict[str, float]) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]
