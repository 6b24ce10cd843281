"""FastChat's files: questions in, answers of two turns out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from surelock import LLM, SamplingParams
from surelock.errors import PromptError
from surelock.eval.mt_bench import Question, answer_questions, read_questions

ROWS = [
    {
        "question_id": 81,
        "category": "writing",
        "turns": ["Write a line about the sea.", "Shorten it."],
        "reference": [],
    },
    {"question_id": 101, "category": "reasoning", "turns": ["What is 2 + 3?"]},
]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def test_answers_have_fastchats_form(tmp_path: Path, embedded: LLM) -> None:
    questions = read_questions(write(tmp_path / "question.jsonl", ROWS))
    assert questions[0] == Question(
        question_id=81, category="writing", turns=("Write a line about the sea.", "Shorten it.")
    )
    params, seen = SamplingParams(max_tokens=6), list[str]()
    first, second = answer_questions(embedded, questions, params, model_id="demo", progress=seen.append)
    assert seen == ["turn 1 of 2 questions", "turn 2 of 2 questions"]
    assert list(first) == ["question_id", "answer_id", "model_id", "choices", "tstamp"]
    assert (first["question_id"], first["model_id"], second["question_id"]) == (81, "demo", 101)
    assert first["answer_id"] != second["answer_id"]
    ((choice,), (other,)) = first["choices"], second["choices"]
    assert choice["index"] == 0
    assert len(choice["turns"]) == 2
    assert len(other["turns"]) == 1
    asked = [
        {"role": "user", "content": questions[0].turns[0]},
        {"role": "assistant", "content": choice["turns"][0]},
        {"role": "user", "content": questions[0].turns[1]},
    ]
    assert choice["turns"] == [
        embedded.chat(asked[:1], params).text.strip(),
        embedded.chat(asked, params).text.strip(),
    ]


def test_a_second_turn_that_does_not_fit_is_left_empty_and_said(embedded: LLM) -> None:
    long = Question(question_id=1, category="", turns=("Hello.", "word " * 600))
    short = Question(question_id=2, category="", turns=("Hello.", "Again."))
    first, second = answer_questions(embedded, [long, short], SamplingParams(max_tokens=4), model_id="demo")
    assert first["choices"][0]["turns"][1] == ""
    assert first["notes"][0].startswith("turn 2 is empty: ")
    assert "notes" not in second
    assert len(second["choices"][0]["turns"]) == 2
    with pytest.raises(PromptError, match="question 3: "):
        answer_questions(
            embedded, [Question(question_id=3, category="", turns=("word " * 600,))], SamplingParams(), model_id=""
        )


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("", "holds no question"),
        ("{", "line 1 is not JSON"),
        ('{"question_id": 1}', 'line 1 must be an object with "turns"'),
        ('{"question_id": 1, "turns": ["a", ""]}', 'line 1 must be an object with "turns"'),
        ('{"turns": ["a"]}', '"question_id" must be an integer or a string'),
        ("[]", "must be an object"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_holds_no_questions_is_one_line(tmp_path: Path, content: str | None, fragment: str) -> None:
    path = tmp_path / "question.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PromptError, match=re.escape(fragment)):
        read_questions(path)
