"""Packed batches: canvases of any length end to end, until the batch is full."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from training.canvas import PROMPT_LENGTH, TEXT_LENGTHS, Row, text_row, turn_row
from training.documents import GROUP_WEIGHTS
from training.prepare import load_group
from training.problems import TASK_WEIGHTS, Tokens, encode_turn, random_problem

MASK: Final = 1
# Shares of the canvases.
TASKS_SHARE: Final = 0.6
CHATS_SHARE: Final = 0.06
MIN_TEXT_LENGTH: Final = 16
# What a batch's rows are logged as.
KINDS: Final = ("text", "chat", *TASK_WEIGHTS)


@dataclass(frozen=True, slots=True)
class Batch:
    """T packed tokens.

    Attributes:
        inputs, targets: [T] int64: with masks, and without.
        positions: [T] int64, within the canvas.
        weights: [T] float32: what each masked token counts; 0 elsewhere.
        kinds: [T] int64, index into KINDS.
        starts: [S + 1] int32: where each canvas begins, then T, repeated to a fixed length.
    """

    inputs: Tensor
    targets: Tensor
    positions: Tensor
    weights: Tensor
    kinds: Tensor
    starts: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))

    def pin_memory(self) -> Batch:
        """The batch in pinned memory; called by the DataLoader."""
        return Batch(*(getattr(self, name).pin_memory() for name in self.__slots__))


class PackedCanvases(IterableDataset[Batch]):
    """An endless stream of batches; every worker draws its own problems."""

    def __init__(self, data: Path, tokenizer: Path, num_tokens: int, seed: int, task_weights: dict[str, float]) -> None:
        """`data`: what `training.prepare` wrote; `num_tokens`: T."""
        self._data, self._tokenizer, self._num_tokens, self._seed = data, tokenizer, num_tokens, seed
        self._task_weights = task_weights

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        seed = self._seed * 10_007 + (info.id if info is not None else 0)
        source = Source(self._data, self._tokenizer, seed, self._task_weights)
        while True:
            yield pack(source, self._num_tokens)


class Source:
    """Draws rows at random."""

    def __init__(self, data: Path, tokenizer: Path, seed: int, task_weights: dict[str, float]) -> None:
        self.rng, self.noise = random.Random(seed), np.random.default_rng(seed)
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.groups = {group: load_group(data, group, "train") for group in GROUP_WEIGHTS}
        self.chats = json.loads((data / "chats.json").read_text())
        self.task_weights = task_weights
        self.is_digit = np.zeros(self.tokenizer.get_vocab_size(), np.bool_)
        for token, index in self.tokenizer.get_vocab().items():
            self.is_digit[index] = token.lstrip("Ġ").isdigit()

    def row(self) -> Row:
        share = self.rng.random()
        while share < TASKS_SHARE + CHATS_SHARE:
            if share < TASKS_SHARE:
                example = random_problem(self.rng, self.tokenizer, self.task_weights)
            else:
                example = encode_turn(self.tokenizer, "chat", *self.rng.choice(self.chats))
            row = turn_row(self.rng, self.noise, example, self.is_digit)
            if row is not None:
                return row
        return text_row(self.rng, self.noise, self.text(self.rng.choices(*_sizes())[0]))

    def text(self, length: int) -> Tokens:
        """A stretch of one document, or the whole of a shorter one."""
        group = self.groups[self.rng.choices(list(GROUP_WEIGHTS), list(GROUP_WEIGHTS.values()))[0]]
        while True:
            document = int(np.searchsorted(group.starts, self.rng.randrange(group.tokens.size), "right")) - 1
            begin, end = int(group.starts[document]), int(group.starts[document + 1])
            if end - begin >= min(PROMPT_LENGTH, length):
                break
        if end - begin > length and self.rng.random() > 0.2:
            begin = self.rng.randint(begin, end - length)
        return group.tokens[begin : min(begin + length, end)].astype(np.int64)


def _sizes() -> tuple[list[int], list[float]]:
    return list(TEXT_LENGTHS), list(TEXT_LENGTHS.values())


def pack(source: Source, num_tokens: int) -> Batch:
    """Rows until `num_tokens` are full; the last is cut from text to the length that is left."""
    rows: list[Row] = []
    left = num_tokens
    while left > 0:
        row = source.row()
        if row.tokens.size > left:
            row = _filler(source, left)
        rows.append(row)
        left -= row.tokens.size
    tokens = np.concatenate([row.tokens for row in rows])
    masked = np.concatenate([row.masked for row in rows])
    sizes = np.array([row.tokens.size for row in rows])
    starts = np.full(num_tokens // 16 + 2, num_tokens, np.int32)
    starts[: sizes.size + 1] = np.concatenate([[0], np.cumsum(sizes)])
    return Batch(
        inputs=torch.from_numpy(np.where(masked, MASK, tokens)),
        targets=torch.from_numpy(tokens),
        positions=torch.from_numpy(np.concatenate([np.arange(size) for size in sizes])),
        weights=torch.from_numpy(np.concatenate([row.weights for row in rows])),
        kinds=torch.from_numpy(np.repeat([KINDS.index(row.kind) for row in rows], sizes)),
        starts=torch.from_numpy(starts),
    )


def _filler(source: Source, length: int) -> Row:
    """Text of at most `length` tokens; a remainder too short to teach anything counts nothing."""
    if length < MIN_TEXT_LENGTH:
        nothing = np.zeros(length)
        return Row("text", nothing.astype(np.int64), nothing.astype(np.bool_), nothing.astype(np.float32))
    return text_row(source.rng, source.noise, source.text(length)[:length])
