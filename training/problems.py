"""Task problems and short chats as token sequences: a prompt in the chat template, and the answer it asks for."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from surelock.measure.tasks import make_problem

Tokens = NDArray[np.int64]

EOS: Final = 0
EOT: Final = 3

# How often each type is asked. Types with long worked answers or digits to carry get more.
TASK_WEIGHTS: Final = {
    "add": 1.6,
    "sub": 1.3,
    "sort": 1.2,
    "seq": 1.3,
    "spell": 1.2,
    "count": 1.2,
    "weekday": 0.6,
    "logic": 0.5,
    "unit": 1.2,
    "json": 0.8,
    "table": 1.2,
    "story": 1.2,
    "shop": 1.4,
    "code": 0.5,
}
LEVEL_WEIGHTS: Final = {1: 0.3, 2: 0.4, 3: 0.3}


@dataclass(frozen=True, slots=True)
class Example:
    """One turn: prompt ids up to the assistant's header, and answer ids with the end of turn, both [length]."""

    kind: str
    prompt: Tokens
    answer: Tokens


def chat_prompt(question: str) -> str:
    """The text of one user turn, as the chat template of `training/tokenizer.py` renders it."""
    return (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n"
        f"{question.strip()}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def encode_turn(tokenizer: Tokenizer, kind: str, question: str, answer: str) -> Example:
    """The example of one question and its answer."""
    prompt = tokenizer.encode(chat_prompt(question), add_special_tokens=False).ids
    ids = tokenizer.encode(answer, add_special_tokens=False).ids
    return Example(kind, np.array(prompt, np.int64), np.array([*ids, EOT], np.int64))


def random_problem(rng: random.Random, tokenizer: Tokenizer, weights: dict[str, float]) -> Example:
    """A training problem of a random type and level."""
    task = rng.choices(list(weights), list(weights.values()))[0]
    level = rng.choices(list(LEVEL_WEIGHTS), list(LEVEL_WEIGHTS.values()))[0]
    problem = make_problem(rng, task, level, "train")
    return encode_turn(tokenizer, task, problem.question, problem.answer)


def chat_turns(text: str) -> list[tuple[str, str]]:
    """(turn, reply) pairs of a two-person chat whose lines start with `A: ` and `B: `."""
    lines = [line for line in text.split("\n") if line[:3] in ("A: ", "B: ")]
    return [(a[3:], b[3:]) for a, b in itertools.pairwise(lines) if a[0] != b[0]]
