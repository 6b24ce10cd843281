"""What a study works with: a model, its prompts and the user's options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar

from surelock.errors import ParameterError, PromptError, shown
from surelock.measure.tasks import TASKS, make_problem
from surelock.measure.text import load_text
from surelock.params import MAX_STEPS

if TYPE_CHECKING:
    from surelock.llm import LLM
    from surelock.measure.judge import Judge
    from surelock.text.tokenizer import Tokenizer

Canvas = tuple[int, ...]
Found = TypeVar("Found")

NUM_TEXT_TOKENS: Final = 64
# Logic has no test problem at level 1.
_QUESTION_LEVEL: Final = 2
# A file's questions are taken whole.
_WHOLE: Final = 1 << 16


@dataclass(frozen=True, slots=True, order=True)
class Length:
    """N_gen masked positions, denoised in so many steps."""

    num_generated: int
    steps: int

    def __str__(self) -> str:
        return f"{self.num_generated}/{self.steps}"

    def masked_floor(self, num_prompt: int) -> float:
        """The least active ratio any locking can reach: masks must be computed. (N_gen + 1) / (2 N) at steps = N_gen.

        Exact where the steps divide N_gen.
        """
        return self.num_generated * (self.steps + 1) / (2 * self.steps * (num_prompt + self.num_generated))

    def unscripted(self, num_prompt: int, limit: int) -> str | None:
        """Why `surelock.bench.schedules` has no script for it, on at most `limit` positions; or None."""
        if self.steps != self.num_generated:
            return "scripts assume one token a step"
        num = num_prompt + self.num_generated
        return f"{num} positions; the model's limit is {limit}" if num > limit else None


def lengths(*each: int | tuple[int, int]) -> tuple[Length, ...]:
    """From numbers (as many steps as tokens) and pairs."""
    return tuple(Length(one, one) if isinstance(one, int) else Length(*one) for one in each)


def parse_length(text: str) -> Length:
    """N_gen, or N_gen/steps.

    Raises:
        ParameterError: it is something else, or there are more steps than tokens.
    """
    tokens, slash, steps = text.strip().partition("/")
    numbers = [tokens, steps if slash else tokens]
    if not all(number.isdecimal() and len(number) <= 6 and int(number) for number in numbers):
        raise ParameterError(f"a length is {shown(text)}; write N_gen or N_gen/steps: 64,128/64")
    length = Length(int(numbers[0]), int(numbers[1]))
    if length.steps > min(length.num_generated, MAX_STEPS):
        raise ParameterError(f"a length is {shown(text)}; it has more steps than tokens: lower the steps")
    return length


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose for all studies.

    Attributes:
        quick: small settings.
        prompts: a file of prompts as `load_text` reads it; None for text and problems that come with the package.
        judge: folder or hub id of the causal language model that computes Gen-PPL; None for the shipped one.
        seed: of the bootstrap and of drawn problems.
        offline: read the judge from files that are there.
        device, dtype: of models that are made up, where a study needs no checkpoint.
    """

    quick: bool = False
    prompts: Path | None = None
    judge: str | None = None
    seed: int = 0
    offline: bool = False
    device: Any = None
    dtype: Any = None


@dataclass(frozen=True, slots=True)
class Text:
    """The beginning of a text, as text and as token ids."""

    text: str
    canvas: Canvas


class Bench:
    """One model and its prompts, the same for the same numbers.

    Args:
        model: the model; None for studies that need none.
        options: of the user.

    Attributes:
        left_out: a line for each setting that was asked for and cannot be measured.
        show: told the share of the current cell that is done, and what is being done.
        decoded: outputs by request, so that equal requests are decoded once (`studies.decoders`).
    """

    def __init__(self, model: LLM | None, options: Options | None = None) -> None:
        self._llm = model
        self.options = options or Options()
        self.left_out: list[str] = []
        self.show: Callable[[float, str], None] = lambda share, what: None
        self.decoded: dict[object, Any] = {}
        self._texts: list[Text] = []

    @property
    def llm(self) -> LLM:
        """The model."""
        assert self._llm is not None, "the study says that it needs no model"
        return self._llm

    @property
    def seed(self) -> int:
        """Of the bootstrap and of drawn problems."""
        return self.options.seed

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model.

        Raises:
            PromptError: it has none.
        """
        if self.llm.tokenizer is None:
            raise PromptError(
                f"{self.llm.name} has no tokenizer, and the prompts of a study are text: add its tokenizer"
            )
        return self.llm.tokenizer

    @property
    def is_chat(self) -> bool:
        """Whether the model has a chat template."""
        return self.tokenizer.has_chat_template

    @cached_property
    def judge(self) -> Judge:
        """On the model's device, in float32 where it is the shipped one."""
        import torch

        from surelock.measure.judge import Judge

        chosen = self.options.judge
        return Judge.load(
            chosen,
            device=self.llm.device,
            dtype=torch.float32 if chosen is None else None,
            offline=True if self.options.offline else None,
        )

    def facts(self) -> dict[str, Any]:
        """What a result says of model, device and prompts; results of the same facts belong together."""
        from surelock.results.environment import environment

        options = self.options
        own: dict[str, Any] = {"commit": environment()["commit"], "quick": options.quick, "seed": options.seed}
        own["prompts"] = None if options.prompts is None else options.prompts.name
        own["judge"] = options.judge
        if self._llm is not None:
            own["model"], own["revision"] = self._llm.name, self._llm.commit
            own["dtype"], own["device"] = str(self._llm.dtype).removeprefix("torch."), str(self._llm.device)
        return own

    def leave_out(self, line: str) -> None:
        """Note what is not measured, once."""
        if line not in self.left_out:
            self.left_out.append(line)

    def texts(self, num: int) -> list[Text]:
        """The beginnings of num texts, `NUM_TEXT_TOKENS` tokens each.

        Raises:
            PromptError: there are fewer, or the file cannot be read.
        """
        if len(self._texts) < num:
            records = load_text(
                path=self.options.prompts, tokenizer=self.tokenizer, num_prompts=num, num_prompt_tokens=NUM_TEXT_TOKENS
            )
            self._texts = [Text(record.prompt, record.token_ids) for record in self._first(num, records)]
        return self._texts[:num]

    def questions(self, num: int) -> list[Canvas]:
        """First turns of num conversations, through the chat template where the model has one.

        Raises:
            PromptError: there are fewer, or the file cannot be read.
        """
        if self.options.prompts is None:
            random, tasks = Random(self.seed), list(TASKS)
            texts = [
                make_problem(random, tasks[index % len(tasks)], _QUESTION_LEVEL, "test").question
                for index in range(num)
            ]
        else:
            records = load_text(path=self.options.prompts, tokenizer=self.tokenizer, num_prompt_tokens=_WHOLE)
            texts = self._first(num, [record.prompt for record in records])
        if not self.is_chat:
            return [tuple(self.tokenizer.encode(text)) for text in texts]
        return [self.chat(text) for text in texts]

    def chat(self, question: str) -> Canvas:
        """One user turn through the chat template."""
        return tuple(self.llm.encode_chat([{"role": "user", "content": question}]))

    def mixed(self, num: int) -> list[Canvas]:
        """Half texts and half questions, the texts first; each once."""
        texts = [text.canvas for text in self.texts((num + 1) // 2)]
        # A file's questions begin with its texts.
        return list(dict.fromkeys([*texts, *self.questions(num)]))[:num]

    def fitting(self, wanted: Sequence[Length], prompts: Sequence[Sequence[object]]) -> list[Length]:
        """The lengths whose canvases fit the model; the others are left out."""
        limit, num_prompt = self.llm.config.max_sequence_length, max(map(len, prompts))
        for length in wanted:
            num = num_prompt + length.num_generated
            if num > limit:
                self.leave_out(
                    f"N_gen/steps {length}: with the longest prompt ({num_prompt} tokens) the canvas has {num} "
                    f"positions; the model's limit is {limit}"
                )
        return [length for length in wanted if num_prompt + length.num_generated <= limit]

    def _first(self, num: int, found: list[Found]) -> list[Found]:
        if len(found) < num:
            source = "the package" if self.options.prompts is None else f"--prompts {self.options.prompts}"
            raise PromptError(f"{num} prompts are asked for and {source} has {len(found)}: lower num_prompts")
        return found[:num]
