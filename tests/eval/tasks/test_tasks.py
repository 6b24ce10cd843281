"""Questions and answers are those of the golden file, splits never meet, and checkers tell right from wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surelock.eval.tasks import LEVELS, TASKS, Problem, Split, Verdict, check, is_test, make_problem

RIGHT = Verdict(final=True, steps=True, form=True)
GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "problems.jsonl").read_text().splitlines()]

tasks = st.sampled_from(sorted(TASKS))
levels = st.sampled_from(LEVELS)
seeds = st.integers(0, 1 << 30)


def drawn(task: str, level: int, seed: int, split: Split = "train") -> Problem:
    return make_problem(random.Random(seed), task, level, split)


def test_golden_file_has_every_task_and_level() -> None:
    found = {(entry["task"], entry["level"]) for entry in GOLDEN}
    assert found == {(task, level) for task in TASKS for level in LEVELS}
    assert {entry["split"] for entry in GOLDEN} == {"train", "test"}


@pytest.mark.parametrize("entry", GOLDEN, ids=[f"{entry['task']}-{entry['level']}" for entry in GOLDEN])
def test_texts_and_splits_are_stable(entry: dict[str, Any]) -> None:
    problem = drawn(entry["task"], entry["level"], entry["seed"], entry["split"])
    assert (problem.question, problem.answer) == (entry["question"], entry["answer"])
    assert json.loads(json.dumps(problem.meta)) == entry["meta"]
    assert is_test(entry["question"]) == (entry["split"] == "test")
    stored = Problem(entry["task"], entry["level"], entry["question"], "", entry["meta"])
    assert check(stored, entry["answer"]) == RIGHT


@given(tasks, levels, seeds)
def test_own_answer_is_right(task: str, level: int, seed: int) -> None:
    problem = drawn(task, level, seed)
    assert check(problem, problem.answer) == RIGHT
    assert check(problem, f"\n {problem.answer} \n").final


@given(tasks, levels, seeds)
def test_a_changed_character_is_noticed(task: str, level: int, seed: int) -> None:
    problem = drawn(task, level, seed)
    answer = problem.answer
    rng = random.Random(seed)
    digits = [index for index, character in enumerate(answer) if character.isdigit()]
    index = rng.choice(digits or [index for index, character in enumerate(answer) if character.isalpha()])
    # In code, x * 2 can become x * x and another number can take the same elements; elsewhere any change is wrong.
    other = rng.choice([c for c in ("0123456789" if digits else "abcdefgh") if c != answer[index]])
    verdict = check(problem, answer[:index] + other + answer[index + 1 :])
    assert verdict != RIGHT or task == "code"


@given(tasks, levels, seeds, st.text(max_size=60))
def test_any_text_gets_a_verdict(task: str, level: int, seed: int, text: str) -> None:
    problem = drawn(task, level, seed)
    for answer in (text, problem.answer + text, text + problem.answer):
        verdict = check(problem, answer)
        assert verdict.final or not verdict.steps
        assert verdict.form or not verdict.final
