"""Problems reach the model as chat turns do, canvases are as long as promised, tables add up."""

from __future__ import annotations

import csv
import json
import lzma
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from surelock import LLM, LockParams, SamplingParams
from surelock.errors import ParameterError, PromptError
from surelock.measure.task_eval import TaskAnswer, TaskSettings, evaluation_problems, measure_tasks
from surelock.measure.task_table import accuracy_rows, answer_rows, markdown_page, summarized, summary_rows
from surelock.measure.tasks import Problem, Verdict, is_test
from tests.server.tiny_llm import tiny_llm

EAGER = LockParams(kl_threshold=1e6)
RULES = {"none": None, "eager": EAGER}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return tiny_llm(LLM(device="cpu"), max_sequence_length=512)


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return evaluation_problems(["unit", "sudoku"], [1], num_per_task=2)


def test_problems_are_different_and_for_testing() -> None:
    problems = evaluation_problems(["add", "story"], num_per_task=7, seed=3)
    assert Counter((each.task, each.level) for each in problems) == {
        (task, level): 3 if level == 1 else 2 for task in ("add", "story") for level in (1, 2, 3)
    }
    assert len({each.question for each in problems}) == len(problems)
    assert all(is_test(each.question) for each in problems)


def test_problems_depend_on_seed_and_level_only() -> None:
    both = evaluation_problems(["unit", "seq"], [1, 3], num_per_task=8)
    alone = evaluation_problems(["seq"], [3], num_per_task=4)
    assert [each for each in both if each.task == "seq" and each.level == 3] == alone
    assert evaluation_problems(["seq"], [3], num_per_task=4, seed=1) != alone


def test_another_level_stands_in_where_there_are_too_few() -> None:
    problems = evaluation_problems(["logic"], num_per_task=12)
    assert Counter(each.level for each in problems) == {2: 6, 3: 6}


def test_no_problem_at_all_is_refused() -> None:
    with pytest.raises(ParameterError, match="no test problem of logic at level 1"):
        evaluation_problems(["logic"], [1], num_per_task=3)
    assert {each.task for each in evaluation_problems(["logic", "add"], [1], num_per_task=3)} == {"add"}


def test_answers_are_those_of_chat(llm: LLM, problems: list[Problem]) -> None:
    settings = TaskSettings(canvases=("padded",), max_tokens=24, tokens_per_step=3, block_length=8)
    run = measure_tasks(llm, problems, RULES, settings)
    for answer in run.answers:
        params = SamplingParams(max_tokens=24, steps=8, block_length=8, lock=RULES[answer.rule])
        output = llm.chat([{"role": "user", "content": answer.problem.question}], params)
        assert answer.text == output.text
        assert answer.num_steps == output.stats.steps == 8
        assert answer.num_positions == len(output.canvas_token_ids)
        assert answer.active_ratio == output.stats.active_ratio
        assert answer.has_ended == (output.finish_reason == "stop")


def test_order_and_comparison_with_no_lock(llm: LLM, problems: list[Problem]) -> None:
    lines: list[str] = []
    run = measure_tasks(llm, problems, RULES, TaskSettings(max_tokens=40, tokens_per_step=8), progress=lines.append)
    places = [(answer.canvas, answer.rule, answer.problem) for answer in run.answers]
    assert places == [(kind, rule, each) for kind in ("fitted", "padded") for rule in RULES for each in problems]
    assert lines[:2] == ["fitted canvases, rule none, 4 problems", "fitted canvases, rule eager, 4 problems"]
    for answer in run.answers:
        if answer.rule == "none":
            assert (answer.identical, answer.agreement, answer.active_ratio) == (True, 1, 1)
            assert answer.locked_flops == answer.base_flops
        else:
            assert answer.active_ratio < 1
            # Two layers cost less than the head, so what is measured costs more than locking saves.
            assert answer.locked_flops != answer.base_flops


def test_canvas_lengths(llm: LLM, problems: list[Problem]) -> None:
    assert llm.tokenizer is not None
    run = measure_tasks(llm, problems, {"none": None}, TaskSettings(tokens_per_step=32))
    for answer in run.answers:
        if answer.canvas == "padded":
            assert answer.max_tokens == (160 if answer.problem.task == "sudoku" else 128)
        else:
            spare = answer.max_tokens - len(llm.tokenizer.encode(answer.problem.answer, bos=False))
            assert answer.max_tokens % 32 == 0
            assert 1 <= spare <= 32


def test_what_is_too_long_is_left_out_and_said(llm: LLM, problems: list[Problem]) -> None:
    limit = llm.config.max_sequence_length
    run = measure_tasks(llm, problems, {"none": None}, TaskSettings(max_tokens=limit, tokens_per_step=64))
    assert {answer.canvas for answer in run.answers} == {"fitted"}
    assert run.notes == [f"padded: 4 of 4 canvases are longer than the model's {limit} positions, left out"]
    with pytest.raises(PromptError, match="no canvas fits"):
        measure_tasks(llm, problems, {"none": None}, TaskSettings(canvases=("padded",), max_tokens=limit))
    run = measure_tasks(llm, problems, {"none": None}, TaskSettings(canvases=("padded",), max_tokens=2))
    assert run.notes == ["padded: 4 of 4 right answers are longer than their max_tokens"]


def test_no_lock_comes_first(llm: LLM, problems: list[Problem]) -> None:
    with pytest.raises(ParameterError, match="the first rule must be none"):
        measure_tasks(llm, problems, {"eager": EAGER})
    with pytest.raises(ParameterError, match="tokens_per_step is 0"):
        TaskSettings(tokens_per_step=0)


def answers_of(rule: str, verdicts: str, *, task: str = "add", level: int = 1, ratio: float = 1.0) -> list[TaskAnswer]:
    """One for each letter: R is all right, s right with wrong steps, w wrong, - unreadable."""
    return [
        TaskAnswer(
            problem=Problem(task, level, f"{task} {level} {number}", "", {}),
            canvas="fitted",
            rule=rule,
            max_tokens=32,
            num_steps=32,
            num_positions=64,
            text=letter,
            verdict=Verdict(final=letter in "Rs", steps=letter == "R", form=letter != "-"),
            has_ended=letter != "-",
            identical=rule == "none",
            agreement=ratio,
            active_ratio=ratio,
            locked_flops=ratio * 10 * (number + 1),
            base_flops=10 * (number + 1),
        )
        for number, letter in enumerate(verdicts)
    ]


def test_summary() -> None:
    answers = [
        *answers_of("none", "RRsw"),
        *answers_of("none", "RR", task="date", level=2),
        *answers_of("none", "ww", task="date", level=3),
        *answers_of("eager", "Rw-R", ratio=0.5),
        *answers_of("eager", "Rw", task="date", level=2, ratio=0.25),
        *answers_of("eager", "ww", task="date", level=3, ratio=0.25),
    ]
    rows = summary_rows(answers, seed=0)
    assert [(row["task"], row["level"], row["rule"]) for row in rows] == [
        (task, level, rule)
        for task, level in (("add", 1), ("date", 2), ("date", 3), ("date", "all"), ("all", "all"))
        for rule in ("none", "eager")
    ]
    free, eager = rows[:2]
    assert (free["num_problems"], free["accuracy"], free["steps_right"], free["readable"]) == (4, 0.75, 0.5, 1)
    assert free["difference"] is free["mcnemar_p"] is None
    assert (eager["accuracy"], eager["steps_right"], eager["readable"], eager["flops_ratio"]) == (0.5, 0.5, 0.75, 0.5)
    assert (eager["difference"], eager["num_lost"], eager["num_won"], eager["mcnemar_p"]) == (-0.25, 2, 1, 1)
    assert -1 <= eager["difference_low"] < -0.25 < eager["difference_high"] <= 0.5
    steps = {name: eager[f"steps_{name}"] for name in ("difference", "num_lost", "num_won", "mcnemar_p")}
    assert steps == {"difference": 0, "num_lost": 1, "num_won": 1, "mcnemar_p": 1}
    assert -0.75 <= eager["steps_difference_low"] < 0 < eager["steps_difference_high"] <= 0.75
    assert free["steps_difference"] is free["steps_mcnemar_p"] is None
    total = rows[-1]
    assert (total["num_problems"], total["accuracy"], total["difference"]) == (8, 0.375, -0.25)
    assert total["active_ratio"] == pytest.approx(0.375)
    # Locked 0.5 x 100 and twice 0.25 x 30, of 100 + 30 + 30.
    assert total["flops_ratio"] == pytest.approx((50 + 7.5 + 7.5) / 160)


def test_accuracy_by_rule() -> None:
    rows = summary_rows([*answers_of("none", "Rw"), *answers_of("paper", "ww")], seed=0)
    assert accuracy_rows(rows)[0] == {"task": "add", "level": 1, "num_problems": 2, "none": 0.5, "paper": 0}
    rows = summary_rows([*answers_of("none", "RR"), *answers_of("paper", "sR")], seed=0)
    assert accuracy_rows(rows, "steps_right")[0] | {"none": 1, "paper": 0.5} == accuracy_rows(rows, "steps_right")[0]


RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").rglob("evaluation/*/tasks.csv.xz"))
assert RESULTS


@pytest.mark.parametrize("path", RESULTS, ids=[path.parent.name for path in RESULTS])
def test_committed_tables_are_those_of_the_committed_answers(path: Path) -> None:
    answers = [
        {name: text if name in ("task", "canvas", "rule") else float(text) for name, text in row.items()}
        for row in csv.DictReader(lzma.decompress(path.read_bytes()).decode().splitlines())
    ]
    content = json.loads(path.with_name("tasks.json").read_text())
    for row, committed in zip(summarized(answers, seed=content["settings"]["seed"]), content["rows"], strict=True):
        assert row == pytest.approx(committed)
    page = path.with_name("tasks.md").read_text()
    assert page == markdown_page(content)


def test_rows_of_one_problem_have_one_number() -> None:
    answers = [*answers_of("none", "Rw"), *answers_of("paper", "sR")]
    answers += [replace(answer, canvas="padded") for answer in answers]
    assert [row["problem"] for row in answer_rows(answers)] == [0, 1] * 4
    assert [(row["final"], row["steps_right"]) for row in answer_rows(answers)[:4]] == [(1, 1), (0, 0), (1, 0), (1, 1)]
