"""Gaps in held-out text filled, with locks and without: how often exactly, how equal, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from surelock.errors import PromptError, TokenizerError
from surelock.llm import LLM
from surelock.measure.judge import Judge
from surelock.measure.metrics import agreement, costs, perplexity
from surelock.measure.rules import check_rules
from surelock.measure.statistics import mcnemar, paired_difference
from surelock.measure.text.continuation import REAL_TEXT
from surelock.measure.text.infilling import InfillProblem
from surelock.params import LockParams, SamplingParams
from surelock.text.prompts import Prompt

Row = dict[str, Any]


def measure_infilling(
    llm: LLM,
    judge: Judge,
    problems: Sequence[InfillProblem],
    rules: Mapping[str, LockParams | None],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[list[Row], list[Row]]:
    """A row for each rule and a sample for each problem in it; one token a step.

    The gap has as many tokens as the answer, so nothing is padded.

    Returns:
        rows: exact (share of gaps filled with the answer's very words) and its difference to no lock with a 95 %
            interval and McNemar's p; token_match, of gap positions with the answer's token; gap_ppl, of gap and what
            follows, by the judge; agreement with no lock; active_ratio; flops_ratio (`full`, total over problems).
        samples: what was filled in.

    Raises:
        PromptError: there is no problem, or one that does not fit the model. Checked before anything runs.
        ParameterError: the first rule is not `none`.
        TokenizerError: the model has no tokenizer.
    """
    tokenizer = llm.tokenizer
    if tokenizer is None:
        raise TokenizerError(f"{llm.name} has no tokenizer, so it has no text to fill gaps in; choose another one")
    if not problems:
        raise PromptError("there is no gap to fill; give at least one problem")
    check_rules(rules)
    canvases = [problem.canvas(tokenizer) for problem in problems]
    prompts: list[Prompt] = [{"canvas_token_ids": canvas} for canvas, _ in canvases]
    answers = [answer for _, answer in canvases]
    each = {name: SamplingParams(max_tokens=0, temperature=temperature, lock=lock) for name, lock in rules.items()}
    for params in each.values():
        llm.encode(prompts, params)

    befores = [problem.before for problem in problems]
    rows: list[Row] = []
    samples: list[Row] = []
    free_ids: list[list[int]] = []
    free_solved: list[bool] = []
    for name, params in each.items():
        progress(f"infilling, {name}")
        # Each gap its own noise: with one seed all would share it.
        outputs = llm.generate(prompts, [replace(params, seed=seed + index) for index in range(len(prompts))])
        ids = [output.token_ids for output in outputs]
        texts = [tokenizer.decode(tokens) for tokens in ids]
        solved = [problem.is_solved_by(text) for problem, text in zip(problems, texts, strict=True)]
        free_ids, free_solved = free_ids or ids, free_solved or solved
        difference = paired_difference(solved, free_solved, seed=seed)
        filled = [text + problem.after for problem, text in zip(problems, texts, strict=True)]
        rows.append(
            {
                "rule": name,
                "num_problems": len(problems),
                "exact": fmean(solved),
                "difference": difference.value,
                "difference_low": difference.low,
                "difference_high": difference.high,
                "mcnemar_p": mcnemar(solved, free_solved).p_value,
                "token_match": fmean(agreement(a, b) for a, b in zip(ids, answers, strict=True)),
                "gap_ppl": perplexity(judge.negative_log_likelihood(befores, filled)),
                "agreement": fmean(agreement(a, b) for a, b in zip(ids, free_ids, strict=True)),
                **costs([output.stats for output in outputs]),
            }
        )
        for index, (problem, text) in enumerate(zip(problems, texts, strict=True)):
            place = {"rule": name, "index": index, "source": problem.source, "before": problem.before}
            samples.append(place | {"answer": problem.answer, "text": text, "exact": solved[index]})
    real = judge.negative_log_likelihood(befores, [problem.answer + problem.after for problem in problems])
    rows.append(
        dict.fromkeys(rows[0]) | {"rule": REAL_TEXT, "num_problems": len(problems), "gap_ppl": perplexity(real)}
    )
    return rows, samples
