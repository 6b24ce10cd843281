"""The same texts continued and the same problems answered with every variant, and what that is worth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Final

from surelock.eval.judge import perplexity
from surelock.eval.metrics import agreement, distinct_n, entropy
from surelock.eval.statistics import mcnemar, paired_difference
from surelock.eval.task_eval import evaluation_problems
from surelock.eval.tasks import Problem, check
from surelock.eval.text.intervals import perplexity_ratio
from surelock.experiments.result import Column, Row
from surelock.experiments.sweep.together import CanvasRun, Variant, cost_row, run_together
from surelock.params import SamplingParams

if TYPE_CHECKING:
    from surelock.eval.judge import Judge
    from surelock.experiments.lengths import Length
    from surelock.experiments.prompts import Text
    from surelock.experiments.workbench import Workbench
    from surelock.llm import LLM
    from surelock.tokenizer import Tokenizer

# Kinds of problem whose worked answers are long enough for locks to matter.
TASK_NAMES: Final = ("shop", "story", "add", "unit", "json")
_LEVELS: Final = (1, 2)
_FITTED_TO: Final = 32
# So many problems are drawn for each that is kept.
_POOL: Final = 8

TASK_COLUMNS: Final = (
    Column("num_problems", "problems"),
    Column("accuracy", "right", "{:.1%}"),
    Column("difference", "against no lock", "{:+.1%}"),
    Column("difference_low", "95 % from", "{:+.1%}"),
    Column("difference_high", "to", "{:+.1%}"),
    Column("mcnemar_p", "McNemar p", "{:.3f}"),
    Column("task_agreement", "agreement", "{:.3f}"),
    Column("task_active_ratio", "active ratio", "{:.3f}"),
    Column("task_exact_ratio"),
    Column("task_full_ratio"),
)
TASK_NOTE: Final = (
    "Tasks: test problems of the kinds listed below, levels 1 and 2 in equal parts, on fitted canvases (N_gen "
    "is the length of a right answer and its end, rounded up to a multiple of 32). Of each kind and level the problems "
    "with the most common lengths are taken, so that many canvases are decoded together. Against no lock: paired "
    "difference with a 95 % bootstrap interval over problems."
)


@dataclass(slots=True)
class Answers:
    """What one variant gave for all prompts.

    Attributes:
        runs: in the order of the prompts.
        agreement: with no lock, of each.
        scores: (nats, tokens) by the judge; of texts.
        right: whether the result is right; of problems.
    """

    runs: list[CanvasRun]
    agreement: list[float]
    scores: list[tuple[float, int]] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Asked:
    """A problem, its prompt and its canvas."""

    problem: Problem
    prompt: tuple[int, ...]
    max_tokens: int


def continue_texts(
    bench: Workbench, judge: Judge, texts: Sequence[Text], length: Length, variants: Sequence[Variant]
) -> dict[str, Answers]:
    """Every text with every variant, of which the first locks nothing."""
    params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, ignore_eos=True)
    canvases = [text.canvas for text in texts]
    found = run_together(
        bench.llm.transformer,
        canvases,
        params,
        variants,
        progress=lambda message: bench.progress(f"texts, N_gen/steps {length}, {message}"),
    )
    answers = _with_agreement(found, variants)
    bench.progress(f"texts, N_gen/steps {length}, judged")
    tokenizer = _tokenizer(bench.llm)
    written = [
        (text.text, tokenizer.decode(run.tokens))
        for each in answers.values()
        for text, run in zip(texts, each.runs, strict=True)
    ]
    # Many variants write the same.
    different = list(dict.fromkeys(written))
    scores = judge.negative_log_likelihood([prefix for prefix, _ in different], [text for _, text in different])
    score_of = dict(zip(different, scores, strict=True))
    for index, each in enumerate(answers.values()):
        each.scores = [score_of[one] for one in written[index * len(texts) : (index + 1) * len(texts)]]
    return answers


def choose_problems(
    llm: LLM, num_problems: int, *, seed: int, max_tokens: int | None = None, tasks: Sequence[str] = TASK_NAMES
) -> list[Asked]:
    """As many problems of each kind and level, of their most common lengths.

    max_tokens: take only those whose fitted canvases have so many; None for all.
    """
    num_drawn = _POOL * max(1, num_problems // (len(tasks) * len(_LEVELS)))
    pools = []
    for task in tasks:
        for level in _LEVELS:
            drawn = evaluation_problems([task], (level,), num_per_task=num_drawn, seed=seed)
            pool = [_asked(llm, problem) for problem in drawn]
            fits = [each for each in pool if len(each.prompt) + each.max_tokens <= llm.config.max_sequence_length]
            pools.append([each for each in fits if max_tokens in (None, each.max_tokens)])
    pools = [pool for pool in pools if pool]
    chosen: list[Asked] = []
    for pool in pools:
        common = Counter(_shape(each) for each in pool)
        # Sorting keeps the order of problems of one length.
        pool.sort(key=lambda each, common=common: (-common[_shape(each)], _shape(each)))  # type: ignore[misc]
        chosen += pool[: max(1, num_problems // len(pools))]
    return chosen


def answer_problems(
    bench: Workbench, asked: Sequence[Asked], variants: Sequence[Variant], *, tokens_per_step: int = 1
) -> dict[str, Answers]:
    """Every problem with every variant, of which the first locks nothing; in the order of the problems."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, each in enumerate(asked):
        alike[_shape(each)].append(index)
    found: dict[str, dict[int, CanvasRun]] = {variant.name: {} for variant in variants}
    for number, ((_, max_tokens), indices) in enumerate(sorted(alike.items()), start=1):
        runs = run_together(
            bench.llm.transformer,
            [asked[index].prompt for index in indices],
            SamplingParams(max_tokens=max_tokens, steps=-(-max_tokens // tokens_per_step)),
            variants,
            progress=lambda message, number=number: bench.progress(  # type: ignore[misc]
                f"problems of length {number} of {len(alike)}, {message}"
            ),
        )
        for name, of_name in runs.items():
            found[name].update(zip(indices, of_name, strict=True))
    answers = _with_agreement({name: [of[i] for i in range(len(asked))] for name, of in found.items()}, variants)
    for given in answers.values():
        given.right = [
            check(own.problem, _text(bench.llm, run)).final for own, run in zip(asked, given.runs, strict=True)
        ]
    return answers


def text_row(answers: Answers, baseline: Answers, *, seed: int) -> Row:
    """Values of `QUALITY_COLUMNS`."""
    ratio = perplexity_ratio(answers.scores, baseline.scores, seed=seed)
    return {
        "gen_ppl": perplexity(answers.scores),
        "ppl_ratio": ratio.value,
        "ppl_ratio_low": ratio.low,
        "ppl_ratio_high": ratio.high,
        "distinct_3": fmean(distinct_n(run.tokens, 3) for run in answers.runs),
        "entropy": fmean(entropy(run.tokens) for run in answers.runs),
        "agreement": fmean(answers.agreement),
    }


def task_row(llm: LLM, answers: Answers | None, baseline: Answers | None, *, seed: int) -> Row:
    """Values of `TASK_COLUMNS`; None for all where no problem was asked."""
    if answers is None or baseline is None:
        return dict.fromkeys(column.name for column in TASK_COLUMNS)
    difference = paired_difference(answers.right, baseline.right, seed=seed)
    return {
        "num_problems": len(answers.right),
        "accuracy": fmean(answers.right),
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "mcnemar_p": mcnemar(baseline.right, answers.right).p_value,
        "task_agreement": fmean(answers.agreement),
        **{f"task_{name}": value for name, value in cost_row(llm.config, answers.runs).items()},
    }


def _with_agreement(found: dict[str, list[CanvasRun]], variants: Sequence[Variant]) -> dict[str, Answers]:
    baseline = found[variants[0].name]
    return {
        name: Answers(runs, [agreement(run.tokens, base.tokens) for run, base in zip(runs, baseline, strict=True)])
        for name, runs in found.items()
    }


def _asked(llm: LLM, problem: Problem) -> Asked:
    prompt = llm.encode_chat([{"role": "user", "content": problem.question}])
    length = len(_tokenizer(llm).encode(problem.answer, bos=False)) + 1
    return Asked(problem, tuple(prompt), -(-length // _FITTED_TO) * _FITTED_TO)


def _shape(asked: Asked) -> tuple[int, int]:
    return len(asked.prompt), asked.max_tokens


def _text(llm: LLM, run: CanvasRun) -> str:
    """Up to the first end id."""
    tokenizer = _tokenizer(llm)
    end = next((index for index, token in enumerate(run.tokens) if token in tokenizer.end_ids), len(run.tokens))
    return tokenizer.decode(run.tokens[:end])


def _tokenizer(llm: LLM) -> Tokenizer:
    assert llm.tokenizer is not None, "the workbench's prompts need one"
    return llm.tokenizer
