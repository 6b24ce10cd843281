"""MT-Bench in FastChat's file formats: questions in, answers out. Judging them stays FastChat's business.

https://github.com/lm-sys/FastChat/tree/main/fastchat/llm_judge
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from surelock.errors import PromptError
from surelock.llm import LLM
from surelock.params import SamplingParams
from surelock.prompts import Prompt

Message = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of question.jsonl: its id as the file has it, its category, and what the user says in each turn."""

    question_id: int | str
    category: str
    turns: tuple[str, ...]


def read_questions(path: Path) -> list[Question]:
    """The questions of a FastChat question.jsonl, in the file's order.

    Raises:
        PromptError: the file cannot be read, or a line is no question; the message names the line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}; check the path") from None
    questions = [_parse(line, f"{path} line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not questions:
        raise PromptError(f"{path} holds no question; give FastChat's question.jsonl")
    return questions


def answer_questions(
    llm: LLM,
    questions: Sequence[Question],
    params: SamplingParams,
    *,
    model_id: str,
    progress: Callable[[str], None] = lambda message: None,
) -> list[dict[str, Any]]:
    """One object of FastChat's model_answer for each question, in their order.

    All first turns are decoded together, then all second ones, each with its own noise. A turn that no longer fits the
    model with what was said before is left empty, and the answer's "notes" say so.

    Raises:
        PromptError: a first turn does not fit the model.
        TokenizerError: the model has no chat template.
    """
    conversations: list[list[Message]] = [[] for _ in questions]
    notes: list[list[str]] = [[] for _ in questions]
    for turn in range(max((len(question.turns) for question in questions), default=0)):
        progress(f"turn {turn + 1} of {len(questions)} questions")
        asked: list[int] = []
        canvases: list[Prompt] = []
        each: list[SamplingParams] = []
        for index, question in enumerate(questions):
            if turn >= len(question.turns):
                continue
            conversations[index].append({"role": "user", "content": question.turns[turn]})
            own = replace(params, seed=(params.seed or 0) + index)
            try:
                canvas: Prompt = {"prompt_token_ids": llm.encode_chat(conversations[index])}
                llm.encode(canvas, own)
            except PromptError as error:
                if turn == 0:
                    raise PromptError(f"question {question.question_id}: {error}") from None
                notes[index].append(f"turn {turn + 1} is empty: {error}")
                conversations[index].append({"role": "assistant", "content": ""})
                continue
            asked.append(index)
            canvases.append(canvas)
            each.append(own)
        outputs = llm.generate(canvases, each) if canvases else []
        for index, output in zip(asked, outputs, strict=True):
            conversations[index].append({"role": "assistant", "content": output.text.strip()})
    return [
        _record(question, conversation, own, model_id)
        for question, conversation, own in zip(questions, conversations, notes, strict=True)
    ]


def _record(question: Question, conversation: Sequence[Message], notes: list[str], model_id: str) -> dict[str, Any]:
    turns = [message["content"] for message in conversation if message["role"] == "assistant"]
    return {
        "question_id": question.question_id,
        "answer_id": uuid.uuid4().hex,
        "model_id": model_id,
        "choices": [{"index": 0, "turns": turns}],
        "tstamp": time.time(),
        **({"notes": notes} if notes else {}),
    }


def _parse(line: bytes, place: str) -> Question:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise PromptError(f"{place} is not JSON: {error}") from None
    turns = row.get("turns") if isinstance(row, dict) else None
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise PromptError(f'{place} must be an object with "turns", a list of texts that are not empty')
    question_id = row.get("question_id")
    if isinstance(question_id, bool) or not isinstance(question_id, int | str):
        raise PromptError(f'{place}: "question_id" must be an integer or a string')
    return Question(question_id=question_id, category=str(row.get("category", "")), turns=tuple(turns))
