"""Questions and answers are those of the golden file, splits never meet, and checkers tell right from wrong."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surelock.errors import ParameterError
from surelock.measure.tasks import LEVELS, TASKS, Problem, Split, Verdict, check, draw_problems, is_test, make_problem

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


WRONG_RESULT = Verdict(final=False, steps=False, form=True)
WRONG_STEPS = Verdict(final=True, steps=False, form=True)
UNREADABLE = Verdict(final=False, steps=False, form=False)


def problem_of(task: str, **meta: Any) -> Problem:
    return Problem(task, 1, "", "", meta)


SUM = problem_of("add", terms=[17, 25])
SUM_LINES = "Ones: 7 + 5 = 12, write 2, carry 1.\nTens: 1 + 2 + 1 = 4, write 4, carry 0.\n"
LEAF = problem_of("spell", words=["stone"])
LOGIC = problem_of("logic", facts={"A": True, "B": False}, terms=["A", "not B"], operators=["and"])
PUZZLE = problem_of("sudoku", puzzle="1234341221434321")
RECORD = problem_of("json", records=[{"name": "Anna", "age": 30}])
TABLE = problem_of("table", rows=[["Anna", "Rome", 3], ["Ben", "Oslo", 4]], city="Rome", food="eggs")
STORY = problem_of(
    "story", events=[["go", "Anna", "attic"], ["take", "Anna", "key"], ["go", "Anna", "cellar"]], thing="key"
)


@pytest.mark.parametrize(
    ("problem", "text", "verdict"),
    [
        (SUM, SUM_LINES + "Answer: 42.", RIGHT),
        (SUM, SUM_LINES + "Answer: 42", RIGHT),
        # The last result counts.
        (SUM, SUM_LINES + "Answer: 41.\nAnswer: 42.", RIGHT),
        (SUM, SUM_LINES + "Answer: 42.\nAnswer: 41.", WRONG_RESULT),
        (SUM, SUM_LINES.replace("carry 1", "carry 0") + "Answer: 42.", WRONG_STEPS),
        (SUM, "Answer: 42.", WRONG_STEPS),
        (SUM, SUM_LINES + "Answer: 42 or 43.", WRONG_RESULT),
        (SUM, SUM_LINES + "It is 42.", UNREADABLE),
        (SUM, "", UNREADABLE),
        (LEAF, "stone: s t o n e. Backwards: e n o t s.\nAnswer: enots.", RIGHT),
        (LEAF, "stone: s t o n e. Backwards: e n o t s.\nThat is all.\nAnswer: enots.", WRONG_STEPS),
        (LEAF, "stone: s t o n e. Backwards: e n o t s.\nAnswer: stone.", WRONG_RESULT),
        (LOGIC, "A is true.\nnot B is true.\ntrue and true is true.\nAnswer: true.", RIGHT),
        (LOGIC, "A is true.\nnot B is false.\ntrue and false is false.\nAnswer: false.", WRONG_RESULT),
        (LOGIC, "A is true.\nnot B is true.\nAnswer: true.", WRONG_STEPS),
        (PUZZLE, "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1", WRONG_STEPS),
        (PUZZLE, "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 1 2", WRONG_RESULT),
        # A solved grid, of another puzzle.
        (PUZZLE, "2 1 3 4\n3 4 2 1\n1 2 4 3\n4 3 1 2", WRONG_RESULT),
        (PUZZLE, "1 2 3 4\n3 4 1 2\n2 1 4 3", UNREADABLE),
        (PUZZLE, "1234\n3412\n2143\n4321", UNREADABLE),
        (RECORD, '{"age": 30, "name": "Anna"}', RIGHT),
        (RECORD, '{"name": "Anna", "age": "30"}', WRONG_RESULT),
        (RECORD, '{"name": "Anna", "age": 30}\n{"name": "Ben", "age": 31}', WRONG_RESULT),
        (RECORD, '{"name": "Anna", "age": 30', UNREADABLE),
        (RECORD, "[" * 100_000, UNREADABLE),
        (TABLE, "Anna sold 3: 0 + 3 = 3.\nBen is in Oslo, skip.\nAnswer: 3 eggs.", RIGHT),
        (TABLE, "Anna sold 3: 0 + 3 = 3.\nBen sold 4: 3 + 4 = 7.\nAnswer: 7 eggs.", WRONG_RESULT),
        (TABLE, "Anna sold 3: 0 + 3 = 3.\nBen is in Oslo, skip.\nAnswer: 3.", WRONG_RESULT),
        (STORY, "Anna takes the key in the attic.\nAnna carries the key to the cellar.\nAnswer: cellar.", RIGHT),
        (STORY, "Anna takes the key in the attic.\nAnswer: attic.", WRONG_RESULT),
    ],
)
def test_verdicts(problem: Problem, text: str, verdict: Verdict) -> None:
    assert check(problem, text) == verdict


@given(tasks, levels, seeds)
def test_training_never_sees_a_test_question(task: str, level: int, seed: int) -> None:
    rng = random.Random(seed)
    assert not any(is_test(make_problem(rng, task, level, "train").question) for _ in range(20))


@pytest.mark.parametrize("task", TASKS)
def test_testing_never_asks_a_training_question(task: str) -> None:
    problems = draw_problems(random.Random(7), task, 3, "test", 5)
    assert problems
    assert all(is_test(problem.question) for problem in problems)


def test_one_question_in_forty_is_for_testing() -> None:
    num = sum(is_test(f"What is {number}?") for number in range(40_000))
    assert num == pytest.approx(1_000, rel=0.1)


def test_drawn_problems_differ() -> None:
    problems = draw_problems(random.Random(1), "logic", 1, "train", 100)
    # Two facts, each true or false; two terms, each negated or not; two operators.
    assert len({problem.question for problem in problems}) == len(problems) == 32


def test_problems_go_between_processes() -> None:
    problem = drawn("story", 2, 3)
    assert pickle.loads(pickle.dumps(problem)) == problem


@pytest.mark.parametrize(
    ("task", "level", "split", "named"),
    [
        ("divide", 1, "train", "task is 'divide'"),
        ("add", 4, "train", "level is 4"),
        ("add", 1, "val", "split is 'val'"),
        ("logic", 1, "test", "no test problem at level 1"),
    ],
)
def test_what_there_is_not_is_refused(task: str, level: int, split: Any, named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        drawn(task, level, 1, split)
