"""What is decoded: texts that are continued, and problems whose answers a program checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from studies.bench import Bench, Canvas, Length, Text
from surelock.measure.task_eval import FITTED_TO, PADDED_TOKENS, SUDOKU_TOKENS, evaluation_problems
from surelock.measure.tasks import Problem
from surelock.params import SamplingParams

# The kinds of problem the embedded model was trained on.
TRAINED: Final = (
    "add", "sub", "sort", "seq", "spell", "count", "logic", "unit", "json", "table", "shop", "code", "weekday", "story",
)  # fmt: skip
# Those with worked answers long enough for locks to matter.
WORKED: Final = ("shop", "story", "add", "unit", "json")
WORKED_LEVELS: Final = (1, 2)
# So many problems are drawn for each that is kept by `common_lengths`.
_POOL: Final = 8


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
    def shape(self) -> tuple[int, SamplingParams]:
        """Cases of one shape can be decoded by the dense decoder together."""
        return len(self.prompt), self.params


def continuations(texts: Sequence[Text], length: Length) -> list[Case]:
    """At temperature 0 in one block; end ids are kept, so that every run has N_gen tokens."""
    params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, ignore_eos=True, lock=None)
    return [Case(text.canvas, params, text=text.text) for text in texts]


def problems(
    bench: Bench, tasks: Sequence[str], *, num_per_task: int, levels: Sequence[int] = (1, 2, 3),
    canvas: Literal["fitted", "padded"] = "fitted",
) -> list[Case]:  # fmt: skip
    """Problems of the test split, the levels in turn, one token a step; fewer of a kind that has fewer.

    None, and a line in `bench.left_out`, where the model has no chat template; canvases that are too long are left out.

    canvas: fitted: N_gen is the length of the right answer and its end, rounded up to a multiple of 32; padded: 128 for
        every problem, 160 for sudoku.
    """
    if not bench.is_chat:
        bench.leave_out(f"tasks: {bench.llm.name} has no chat template to ask them through")
        return []
    drawn = evaluation_problems(tasks, levels, num_per_task=num_per_task, seed=bench.seed)
    found = [_asked(bench, problem, canvas) for problem in drawn]
    fits = [case for case in found if _fits(bench, case)]
    if len(fits) < len(found):
        limit = bench.llm.config.max_sequence_length
        bench.leave_out(
            f"tasks, {canvas} canvases: {len(found) - len(fits)} of {len(found)} are longer than the model's {limit} "
            "positions"
        )
    return fits


def common_lengths(
    bench: Bench, tasks: Sequence[str], num: int, *, max_tokens: int | None = None, tokens_per_step: int = 1
) -> list[Case]:
    """As many problems of each kind and level, of their most common lengths, so that many are decoded together.

    max_tokens: take only those whose fitted canvases have so many; None for all.
    """
    if not bench.is_chat:
        bench.leave_out(f"tasks: {bench.llm.name} has no chat template to ask them through")
        return []
    num_drawn = _POOL * max(1, num // (len(tasks) * len(WORKED_LEVELS)))
    pools = []
    for task in tasks:
        for level in WORKED_LEVELS:
            drawn = evaluation_problems([task], (level,), num_per_task=num_drawn, seed=bench.seed)
            pool = [case for case in (_asked(bench, problem, "fitted") for problem in drawn) if _fits(bench, case)]
            pools.append([case for case in pool if max_tokens in (None, case.params.max_tokens)])
    pools = [pool for pool in pools if pool]
    if not pools:
        bench.leave_out(f"tasks, N_gen {max_tokens}: no right answer fits so many positions")
    chosen: list[Case] = []
    for pool in pools:
        common = Counter((len(case.prompt), case.params.max_tokens) for case in pool)
        keys = {id(case): (len(case.prompt), case.params.max_tokens) for case in pool}
        # Sorting keeps the order of problems of one length.
        pool.sort(key=lambda case, common=common, keys=keys: (-common[keys[id(case)]], keys[id(case)]))  # type: ignore[misc]
        chosen += pool[: max(1, num // len(pools))]
    return [faster(case, tokens_per_step) for case in chosen]


def first_of_each(cases: Sequence[Case], num: int) -> list[Case]:
    """The first problems of each kind."""
    seen: Counter[str] = Counter()
    found = []
    for case in cases:
        assert case.problem is not None
        seen[case.problem.task] += 1
        if seen[case.problem.task] <= num:
            found.append(case)
    return found


def most_frequent(cases: Sequence[Case], num_shapes: int) -> list[Case]:
    """Those of the most frequent shapes."""
    shapes = Counter((len(case.prompt), case.params.max_tokens) for case in cases)
    frequent = {shape for shape, _ in shapes.most_common(num_shapes)}
    return [case for case in cases if (len(case.prompt), case.params.max_tokens) in frequent]


def faster(case: Case, tokens_per_step: int) -> Case:
    """The same with more tokens a step."""
    return replace(case, params=replace(case.params, steps=-(-case.params.max_tokens // tokens_per_step)))


def _asked(bench: Bench, problem: Problem, canvas: Literal["fitted", "padded"]) -> Case:
    if canvas == "fitted":
        num = len(bench.tokenizer.encode(problem.answer, bos=False)) + 1
        max_tokens = -(-num // FITTED_TO) * FITTED_TO
    else:
        max_tokens = SUDOKU_TOKENS if problem.task == "sudoku" else PADDED_TOKENS
    return Case(
        bench.chat(problem.question),
        SamplingParams(max_tokens=max_tokens, steps=max_tokens, lock=None),
        problem=problem,
    )


def _fits(bench: Bench, case: Case) -> bool:
    return len(case.prompt) + case.params.max_tokens <= bench.llm.config.max_sequence_length
