"""Prompts of the experiments: from a file, or held-out text and tasks that come with the package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, TypeVar

from surelock.errors import PromptError
from surelock.eval.tasks import TASKS, Problem, make_problem
from surelock.eval.text import load_text

if TYPE_CHECKING:
    from surelock.llm import LLM

Canvas = tuple[int, ...]
Found = TypeVar("Found")

NUM_TEXT_TOKENS: Final = 64
# Logic has no test problem at level 1.
_LEVEL: Final = 2
# A file's questions are taken whole.
_WHOLE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Text:
    """What a text continuation begins with, as text and as token ids."""

    text: str
    canvas: Canvas


class Prompts:
    """Token ids of prompts; the same for the same numbers.

    Args:
        llm: whose tokenizer and chat template are used.
        file: as `load_text` reads it: JSON lines with "turns" as MT-Bench has them, "prompt" or "text", or plain text,
            one prompt a line. None: what comes with the package.
        seed: of the tasks drawn.

    Raises:
        PromptError: the model has no tokenizer.
    """

    def __init__(self, llm: LLM, file: Path | None = None, *, seed: int = 0) -> None:
        if llm.tokenizer is None:
            raise PromptError(f"{llm.name} has no tokenizer, and an experiment's prompts are text: add its tokenizer")
        self._tokenizer = llm.tokenizer
        self._file = file
        self._seed = seed
        self._found: list[Text] = []

    @property
    def is_chat(self) -> bool:
        """Whether `questions` go through a chat template."""
        return self._tokenizer.has_chat_template

    @property
    def question_source(self) -> str:
        """Where `questions` come from, for a result file."""
        source = "task questions (test split)" if self._file is None else self._file.name
        return f"{source}, {'chat template' if self.is_chat else 'no chat template'}"

    @property
    def text_source(self) -> str:
        """Where `texts` come from, for a result file."""
        return f"{'held-out text' if self._file is None else self._file.name}, first {NUM_TEXT_TOKENS} tokens"

    def questions(self, num: int) -> list[Canvas]:
        """First turns of num conversations, through the chat template where the model has one.

        Raises:
            PromptError: there are fewer, or the file cannot be read.
        """
        if self._file is None:
            texts = [problem.question for problem in mixed_problems(num, self._seed)]
        else:
            records = load_text(path=self._file, tokenizer=self._tokenizer, num_prompt_tokens=_WHOLE)
            texts = self._first(num, [record.prompt for record in records])
        if not self.is_chat:
            return [tuple(self._tokenizer.encode(text)) for text in texts]
        return [tuple(self._tokenizer.encode_chat([{"role": "user", "content": text}])) for text in texts]

    def texts(self, num: int) -> list[Text]:
        """The beginnings of num texts, `NUM_TEXT_TOKENS` tokens each.

        Raises:
            PromptError: there are fewer, or the file cannot be read.
        """
        if len(self._found) < num:
            records = load_text(
                path=self._file, tokenizer=self._tokenizer, num_prompts=num, num_prompt_tokens=NUM_TEXT_TOKENS
            )
            self._found = [Text(record.prompt, record.token_ids) for record in self._first(num, records)]
        return self._found[:num]

    def _first(self, num: int, found: list[Found]) -> list[Found]:
        if len(found) < num:
            source = "the package" if self._file is None else f"--prompts {self._file}"
            raise PromptError(f"{num} prompts are asked for and {source} has {len(found)}: lower --num-prompts")
        return found[:num]


def mixed_problems(num: int, seed: int) -> list[Problem]:
    """Test problems, task after task, so that any number of them is a fair mixture."""
    return [problem for problem, _ in zip(_problems(seed), range(num), strict=False)]


def _problems(seed: int) -> Iterator[Problem]:
    random = Random(seed)
    while True:
        for task in TASKS:
            yield make_problem(random, task, _LEVEL, "test")
