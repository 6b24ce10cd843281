"""`surelock eval mt-bench`: answers to MT-Bench's questions, in the form FastChat judges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from surelock.cli.files import PartialFile
from surelock.cli.loading import load_llm
from surelock.cli.measuring import measuring_engine, measuring_status
from surelock.cli.options import (
    LockOptions,
    MaxTokens,
    ModelOptions,
    SamplingOptions,
    sampling_params,
    with_options,
)
from surelock.cli.terminal import note


@with_options
def mt_bench(
    model: ModelOptions,
    sampling: SamplingOptions,
    lock: LockOptions,
    questions: Annotated[Path, typer.Option(help="FastChat's question.jsonl.")],
    out: Annotated[Path, typer.Option(help="The file to write: FastChat's model_answer/MODEL_ID.jsonl.")],
    model_id: Annotated[
        str | None, typer.Option(help="Name to file the answers under.", show_default="the model's name")
    ] = None,
    max_tokens: MaxTokens = 256,
) -> None:
    """Answer both turns of each question with the chat template.

    Judging is FastChat's: put the file where its gen_judgment.py looks for answers. Temperature is 0 for all
    categories, as in the paper, unless given.
    """
    params = sampling_params(max_tokens, sampling, lock, model)
    from surelock.eval.mt_bench import answer_questions, read_questions

    asked = read_questions(questions)
    with PartialFile("--out", out) as file:
        llm = load_llm(model, measuring_engine(model.device))
        with measuring_status() as show:
            answers = answer_questions(
                llm, asked, params, model_id=model_id or llm.name.replace("/", "--"), progress=show
            )
        for answer in answers:
            file.file.write(orjson.dumps(answer) + b"\n")
    for answer in answers:
        for text in answer.get("notes", ()):
            note(f"question {answer['question_id']}: {text}")
    note(f"wrote {len(answers)} answers to {out}")
