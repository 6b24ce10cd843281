"""What a study works with: a model, its prompts and the user's options; texts to continue, problems to answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, groupby, islice
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import torch

from surelock.errors import ParameterError, PromptError, shown
from surelock.llm import LLM
from surelock.measure.judge import Judge
from surelock.measure.task_eval import FITTED_TO, PADDED_TOKENS, SUDOKU_TOKENS, CanvasKind, evaluation_problems
from surelock.measure.tasks import TASKS, Problem, make_problem
from surelock.measure.text.prompts import TextPrompt, load_text
from surelock.params import MAX_STEPS, SamplingParams
from surelock.results.environment import environment
from surelock.text.tokenizer import Tokenizer

Canvas = tuple[int, ...]
Found = TypeVar("Found")

NUM_TEXT_TOKENS: Final = 64
# Logic has no test problem at level 1.
_QUESTION_LEVEL: Final = 2
# A file's questions are taken whole.
_WHOLE: Final = 1 << 16
# The kinds of problem the embedded model was trained on.
TRAINED: Final = (
    "add", "sub", "sort", "seq", "spell", "count", "logic", "unit", "json", "table", "shop", "code", "weekday", "story",
)  # fmt: skip
# Those with worked answers long enough for locks to matter.
WORKED: Final = ("shop", "story", "add", "unit", "json")
WORKED_LEVELS: Final = (1, 2)
# So many problems are drawn for each that is kept by `common_lengths`.
_POOL: Final = 8


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

    @property
    def params(self) -> SamplingParams:
        """At temperature 0 in one block, without locks; end ids are kept, so that every run has N_gen tokens."""
        return SamplingParams(max_tokens=self.num_generated, steps=self.steps, ignore_eos=True, lock=None)


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
        prompts: a file of prompts as `load_text` reads it; None for text and problems that come with the package.
        judge: folder or hub id of the causal language model that computes Gen-PPL; None for the shipped one.
        offline: read the judge from files that are there.
    """

    quick: bool = False
    prompts: Path | None = None
    judge: str | None = None
    seed: int = 0
    offline: bool = False


class Bench:
    """One model and its prompts, the same for the same numbers.

    Args:
        model: the model; None for studies that need none.
        options: of the user.

    Attributes:
        left_out: a line for each setting that was asked for and cannot be measured.
        show: told the share of the current cell that is done, and what is being done.
        seed: of the bootstrap and of drawn problems.
        decoded: outputs by request, so that equal requests are decoded once (`studies.decoders`).
    """

    def __init__(self, model: LLM | None, options: Options | None = None) -> None:
        self._llm = model
        self.options = options or Options()
        self.seed = self.options.seed
        self.left_out: list[str] = []
        self.show: Callable[[float, str], None] = lambda share, what: None
        self.decoded: dict[object, Any] = {}

    @property
    def llm(self) -> LLM:
        """The model."""
        assert self._llm is not None, "the study says that it needs no model"
        return self._llm

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model.

        Raises:
            PromptError: it has none.
        """
        found, told = self.llm.tokenizer, "has no tokenizer, and the prompts of a study are text: add its tokenizer"
        if found is None:
            raise PromptError(f"{self.llm.name} {told}")
        return found

    @property
    def is_chat(self) -> bool:
        """Whether the model has a chat template."""
        return self.tokenizer.has_chat_template

    @cached_property
    def judge(self) -> Judge:
        """On the model's device, in float32 where it is the shipped one."""
        chosen, offline = self.options.judge, True if self.options.offline else None
        dtype = torch.float32 if chosen is None else None
        return Judge.load(chosen, device=self.llm.device, dtype=dtype, offline=offline)

    def facts(self) -> dict[str, Any]:
        """What a result says of model, device and prompts; results of the same facts belong together."""
        options = self.options
        own: dict[str, Any] = {
            "commit": environment()["commit"], "quick": options.quick, "seed": options.seed,
            "prompts": None if options.prompts is None else options.prompts.name, "judge": options.judge,
        }  # fmt: skip
        if self._llm is not None:
            own |= {"model": self._llm.name, "revision": self._llm.commit}
            own |= {"dtype": str(self._llm.dtype).removeprefix("torch."), "device": str(self._llm.device)}
        return own

    def leave_out(self, line: str) -> None:
        """Note what is not measured, once."""
        if line not in self.left_out:
            self.left_out.append(line)

    def texts(self, num: int) -> list[TextPrompt]:
        """The beginnings of num texts, `NUM_TEXT_TOKENS` tokens each.

        Raises:
            PromptError: there are fewer, or the file cannot be read.
        """
        options: dict[str, Any] = {"num_prompts": num, "num_prompt_tokens": NUM_TEXT_TOKENS}
        return self._first(num, load_text(path=self.options.prompts, tokenizer=self.tokenizer, **options))

    def questions(self, num: int) -> list[Canvas]:
        """First turns of num conversations, through the chat template where the model has one.

        Raises:
            PromptError: there are fewer, or the file cannot be read.
        """
        if self.options.prompts is None:
            random, tasks = Random(self.seed), list(islice(cycle(TASKS), num))
            texts = [make_problem(random, task, _QUESTION_LEVEL, "test").question for task in tasks]
        else:
            records = load_text(path=self.options.prompts, tokenizer=self.tokenizer, num_prompt_tokens=_WHOLE)
            texts = self._first(num, [record.prompt for record in records])
        return [self.chat(text) if self.is_chat else tuple(self.tokenizer.encode(text)) for text in texts]

    def chat(self, question: str) -> Canvas:
        """One user turn through the chat template."""
        return tuple(self.llm.encode_chat([{"role": "user", "content": question}]))

    def mixed(self, num: int) -> list[Canvas]:
        """Half texts and half questions, the texts first; each once."""
        texts = [text.token_ids for text in self.texts((num + 1) // 2)]
        # A file's questions begin with its texts.
        return list(dict.fromkeys([*texts, *self.questions(num)]))[:num]

    def fitting(self, wanted: Sequence[Length], prompts: Sequence[Sequence[object]]) -> list[Length]:
        """The lengths whose canvases fit the model; the others are left out."""
        limit, num_prompt = self.llm.config.max_sequence_length, max(map(len, prompts))
        too_long = [length for length in wanted if num_prompt + length.num_generated > limit]
        for length in too_long:
            canvas = f"the canvas has {num_prompt + length.num_generated} positions; the model's limit is {limit}"
            self.leave_out(f"N_gen/steps {length}: with the longest prompt ({num_prompt} tokens) {canvas}")
        return [length for length in wanted if length not in too_long]

    def _first(self, num: int, found: list[Found]) -> list[Found]:
        if len(found) < num:
            source = "the package" if self.options.prompts is None else f"--prompts {self.options.prompts}"
            raise PromptError(f"{num} prompts are asked for and {source} has {len(found)}: lower num_prompts")
        return found[:num]


@dataclass(frozen=True, slots=True)
class Case:
    """One request.

    Attributes:
        prompt: token ids.
        params: how it is decoded, but for the decoder's own part.
        text: what the judge reads before the continuation; of texts.
        problem: what is asked; of problems.
    """

    prompt: Canvas
    params: SamplingParams
    text: str = ""
    problem: Problem | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Of the prompt, and of what is generated."""
        return len(self.prompt), self.params.max_tokens


def continuations(texts: Sequence[TextPrompt], length: Length) -> list[Case]:
    """Of N_gen tokens each, whatever ends they contain."""
    return [Case(text.token_ids, length.params, text=text.prompt) for text in texts]


def problems(
    bench: Bench, tasks: Sequence[str], *, num_per_task: int, levels: Sequence[int] = (1, 2, 3),
    canvas: CanvasKind = "fitted",
) -> list[Case]:  # fmt: skip
    """Problems of the test split, the levels in turn, one token a step; fewer of a kind that has fewer.

    None, and a line in `bench.left_out`, where the model has no chat template; canvases that are too long are left out.

    canvas: fitted: N_gen is the length of the right answer and its end, rounded up to a multiple of 32; padded: 128 for
        every problem, 160 for sudoku.
    """
    if not bench.is_chat:
        bench.leave_out(f"tasks: {bench.llm.name} has no chat template to ask them through")
        return []
    found = [
        _asked(bench, problem, canvas)
        for problem in evaluation_problems(tasks, levels, num_per_task=num_per_task, seed=bench.seed)
    ]
    limit = bench.llm.config.max_sequence_length
    fits = [case for case in found if sum(case.size) <= limit]
    if len(fits) < len(found):
        num = f"{len(found) - len(fits)} of {len(found)}"
        bench.leave_out(f"tasks, {canvas} canvases: {num} are longer than the model's {limit} positions")
    return fits


def common_lengths(
    bench: Bench, tasks: Sequence[str], num: int, *, max_tokens: int | None = None, tokens_per_step: int = 1
) -> list[Case]:
    """As many problems of each kind and level, of their most common lengths, so that many are decoded together.

    max_tokens: take only those whose fitted canvases have so many; None for all.
    """
    num_drawn = _POOL * max(1, num // (len(tasks) * len(WORKED_LEVELS)))
    pools = [
        [case for case in found if max_tokens in (None, case.params.max_tokens)]
        for task in tasks
        for level in WORKED_LEVELS
        if (found := problems(bench, [task], num_per_task=num_drawn, levels=(level,)))
    ]
    pools = [pool for pool in pools if pool]
    if not pools and bench.is_chat:
        bench.leave_out(f"tasks, N_gen {max_tokens}: no right answer fits so many positions")
    chosen: list[Case] = []
    for pool in pools:
        common = Counter(case.size for case in pool)
        # Sorting keeps the order of problems of one length.
        ranked = sorted(pool, key=lambda case, common=common: (-common[case.size], case.size))  # type: ignore[misc]
        chosen += ranked[: max(1, num // len(pools))]
    return [faster(case, tokens_per_step) for case in chosen]


def first_of_each(cases: Sequence[Case], num: int) -> list[Case]:
    """The first problems of each kind; `cases` hold one kind after the other."""
    kinds = groupby(cases, lambda case: case.problem and case.problem.task)
    return [case for _, same in kinds for case in islice(same, num)]


def most_frequent(cases: Sequence[Case], num_sizes: int) -> list[Case]:
    """Those of the most frequent sizes."""
    frequent = {size for size, _ in Counter(case.size for case in cases).most_common(num_sizes)}
    return [case for case in cases if case.size in frequent]


def faster(case: Case, tokens_per_step: int) -> Case:
    """The same with more tokens a step."""
    return replace(case, params=replace(case.params, steps=-(-case.params.max_tokens // tokens_per_step)))


def _asked(bench: Bench, problem: Problem, canvas: CanvasKind) -> Case:
    max_tokens = SUDOKU_TOKENS if problem.task == "sudoku" else PADDED_TOKENS
    if canvas == "fitted":
        max_tokens = -(-(len(bench.tokenizer.encode(problem.answer, bos=False)) + 1) // FITTED_TO) * FITTED_TO
    params = SamplingParams(max_tokens=max_tokens, steps=max_tokens, lock=None)
    return Case(bench.chat(problem.question), params, problem=problem)
