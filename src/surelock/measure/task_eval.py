"""Checkable tasks asked as one chat turn each and decoded with several locking rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from surelock.errors import ParameterError, PromptError, shown
from surelock.llm import LLM
from surelock.measure.metrics import agreement
from surelock.measure.rules import check_rules
from surelock.measure.tasks import Problem, Verdict, check, draw_problems
from surelock.output import RequestOutput
from surelock.params import LockParams, SamplingParams

CanvasKind = Literal["fitted", "padded"]

DEFAULT_LEVELS: Final = (1, 2, 3)
PADDED_TOKENS: Final = 128
# The answer to a sudoku is longer: four rows, four columns, four boxes.
SUDOKU_TOKENS: Final = 160
FITTED_TO: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """How the problems are decoded.

    Attributes:
        canvases: fitted (max_tokens is the length of the right answer and its end, rounded up to a multiple of 32),
            padded (max_tokens is the same for all), or both.
        max_tokens: of padded canvases; None for 128, and 160 for sudoku.
        tokens_per_step: tokens unmasked in a step.
        block_length: positions of a semi-autoregressive block; None for one block.

    Raises:
        ParameterError: tokens_per_step is below 1.
    """

    canvases: Sequence[CanvasKind] = ("fitted", "padded")
    max_tokens: int | None = None
    tokens_per_step: int = 1
    block_length: int | None = None

    def __post_init__(self) -> None:
        if self.tokens_per_step < 1:
            raise ParameterError(f"tokens_per_step is {shown(self.tokens_per_step)}; it must be at least 1")

    def params(self, max_tokens: int, lock: LockParams | None) -> SamplingParams:
        """For one problem."""
        steps = -(-max_tokens // self.tokens_per_step)
        return SamplingParams(max_tokens=max_tokens, steps=steps, block_length=self.block_length, lock=lock)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAnswer:
    """One problem decoded with one rule on one canvas.

    Attributes:
        canvas, rule: of the run.
        max_tokens, num_steps, num_positions: generated positions, denoising steps, positions of the whole canvas.
        text: the answer, without what follows its end.
        verdict: of the checker.
        has_ended: whether the answer has an end token.
        identical: whether the answer, without what follows its end, has the very tokens of no lock.
        agreement: share of generated positions with the token of no lock.
        active_ratio: rows computed over all rows.
        locked_flops, base_flops: `full` FLOPs with the rule and without.
    """

    problem: Problem
    canvas: CanvasKind
    rule: str
    max_tokens: int
    num_steps: int
    num_positions: int
    text: str
    verdict: Verdict
    has_ended: bool
    identical: bool
    agreement: float
    active_ratio: float
    locked_flops: float
    base_flops: float


@dataclass(frozen=True, slots=True)
class TaskRun:
    """All answers: canvas by canvas, rule by rule, the problems in their order; and a line for what was left out."""

    answers: list[TaskAnswer]
    notes: list[str]


def evaluation_problems(
    tasks: Sequence[str], levels: Sequence[int] = DEFAULT_LEVELS, *, num_per_task: int, seed: int = 0
) -> list[Problem]:
    """Different problems of the test split, the levels of a task in turn; fewer or none where the split has no more.

    Raises:
        ParameterError: no such task or level, or there is no test problem at all.
    """
    chosen: list[Problem] = []
    for task in dict.fromkeys(tasks):
        # Each level draws from its own source, so that leaving one out changes no other.
        by_level = [
            draw_problems(random.Random(f"{seed} {task} {level}"), task, level, "test", num_per_task)
            for level in dict.fromkeys(levels)
        ]
        in_turn = [problems[index] for index in range(num_per_task) for problems in by_level if index < len(problems)]
        chosen += in_turn[:num_per_task]
    if not chosen:
        named, given = ", ".join(tasks), ", ".join(map(str, levels))
        raise ParameterError(f"there is no test problem of {named} at level {given}; use another level")
    return chosen


def measure_tasks(
    llm: LLM,
    problems: Sequence[Problem],
    rules: Mapping[str, LockParams | None],
    settings: TaskSettings | None = None,
    *,
    progress: Callable[[str], None] = lambda message: None,
) -> TaskRun:
    """Decode every problem with every rule, greedily, and check the answers.

    Args:
        llm: with a chat template; as many problems run at a time as its engine takes.
        problems: asked with the tokens of `LLM.chat`.
        rules: by name, `none` first: the others are compared with it.
        settings: by default fitted and padded canvases, one token a step.
        progress: called with what is being decoded.

    Raises:
        ParameterError: the first rule is not `none`, or a setting is out of its limits.
        TokenizerError: the model has no tokenizer or no chat template.
        PromptError: no problem fits the model.
        NonFiniteLogitsError: the model's output was not finite.
    """
    settings = settings or TaskSettings()
    check_rules(rules)
    asked = [_Asked.of(llm, problem) for problem in problems]
    answers: list[TaskAnswer] = []
    notes: list[str] = []
    for canvas in settings.canvases:
        lengths = [each.max_tokens(canvas, settings.max_tokens) for each in asked]
        fitting = [
            (each, length)
            for each, length in zip(asked, lengths, strict=True)
            if len(each.prompt) + length <= llm.config.max_sequence_length
        ]
        notes += _notes(canvas, asked, lengths, num_fitting=len(fitting), limit=llm.config.max_sequence_length)
        baseline: list[RequestOutput] = []
        for rule, lock in rules.items() if fitting else ():
            progress(f"{canvas} canvases, rule {rule}, {len(fitting)} problems")
            outputs = llm.generate(
                [{"prompt_token_ids": each.prompt} for each, _ in fitting],
                [settings.params(length, lock) for _, length in fitting],
            )
            baseline = baseline or outputs
            answers += [
                _answer(each.problem, canvas, rule, length, output, base)
                for (each, length), output, base in zip(fitting, outputs, baseline, strict=True)
            ]
    if not answers:
        raise PromptError(
            f"no canvas fits the model's {llm.config.max_sequence_length} positions; use other tasks or max_tokens"
        )
    return TaskRun(answers, notes)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A problem as the model is asked it, and how many tokens the right answer and its end have."""

    problem: Problem
    prompt: list[int]
    answer_length: int

    @classmethod
    def of(cls, llm: LLM, problem: Problem) -> _Asked:
        prompt = llm.encode_chat([{"role": "user", "content": problem.question}])
        assert llm.tokenizer is not None, "encode_chat has refused"
        return cls(problem, prompt, len(llm.tokenizer.encode(problem.answer, bos=False)) + 1)

    def max_tokens(self, canvas: CanvasKind, asked_for: int | None) -> int:
        if canvas == "fitted":
            return -(-self.answer_length // FITTED_TO) * FITTED_TO
        return asked_for or (SUDOKU_TOKENS if self.problem.task == "sudoku" else PADDED_TOKENS)


def _notes(
    canvas: CanvasKind, asked: Sequence[_Asked], lengths: Sequence[int], *, num_fitting: int, limit: int
) -> list[str]:
    found = []
    if num_fitting < len(asked):
        num = len(asked) - num_fitting
        found.append(
            f"{canvas}: {num} of {len(asked)} canvases are longer than the model's {limit} positions, left out"
        )
    num_short = sum(each.answer_length > length for each, length in zip(asked, lengths, strict=True))
    if num_short:
        found.append(f"{canvas}: {num_short} of {len(asked)} right answers are longer than their max_tokens")
    return found


def _answer(
    problem: Problem, canvas: CanvasKind, rule: str, max_tokens: int, output: RequestOutput, base: RequestOutput
) -> TaskAnswer:
    full = output.stats.flops["full"]
    return TaskAnswer(
        problem=problem,
        canvas=canvas,
        rule=rule,
        max_tokens=max_tokens,
        num_steps=output.stats.steps,
        num_positions=len(output.canvas_token_ids),
        text=output.text,
        verdict=check(problem, output.text),
        has_ended=output.finish_reason == "stop",
        identical=output.token_ids == base.token_ids,
        agreement=agreement(output.canvas_token_ids[-max_tokens:], base.canvas_token_ids[-max_tokens:]),
        active_ratio=output.stats.active_ratio,
        locked_flops=full["locked"],
        base_flops=full["base"],
    )
