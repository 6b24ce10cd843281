"""Continuous batching of rows through a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from surelock import LLM, EngineConfig, SamplingParams
from surelock.assemble import request_output
from surelock.batch.decode import Decoder
from surelock.batch.records import record_of
from surelock.batch.row_formats import read_task
from surelock.batch.task import Failure, Finished, Task
from surelock.engine.engine import Engine
from surelock.errors import JobError, OutOfMemoryError
from tests.batch.jobs import DEFAULTS, row_of
from tests.checkpoints import write_checkpoint
from tests.tokenizer_folders import panicking_tokenizer


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = write_checkpoint(tmp_path_factory.mktemp("model"))
    return LLM(folder, engine_config=EngineConfig(max_batch_size=3))


def tasks(*rows: dict[str, Any]) -> list[Task | Failure]:
    defaults = replace(DEFAULTS, params=SamplingParams(max_tokens=4))
    return [read_task(row_of(values, number), defaults) for number, values in enumerate(rows, start=1)]


def ids(*lengths: int, **params: Any) -> list[Task | Failure]:
    """Rows that run for so many steps."""
    return tasks(*({"prompt_token_ids": [1, 2, 3], "max_tokens": length} | params for length in lengths))


def run(llm: LLM, given: list[Task | Failure]) -> dict[int, Any]:
    """Records by row."""
    finished = [each for step in Decoder(llm).run(iter(given)) for each in step]
    records = [record_of(each, llm.name) for each in finished]
    assert len(records) == len({record.number for record in records}) == len(given)
    return {record.number: record for record in records}


def number_of(finished: Finished) -> int:
    return finished.row.number if isinstance(finished, Failure) else finished[0].row.number


def test_rows_are_what_they_are_alone(llm: LLM) -> None:
    given = ids(5, 1, 9, 2, 7, 3, 8, temperature=1.0)
    together = run(llm, given)
    assert together == {number: record for task in given for number, record in run(llm, [task]).items()}
    assert run(llm, given[::-1]) == together
    first = given[0]
    assert isinstance(first, Task)
    assert first.prompt is not None
    (output,) = llm.generate(first.prompt, first.params)
    assert together[1].line["generation_tokens"] == output.generation_tokens
    assert together[1].flops == (output.stats.flops["full"]["locked"], output.stats.flops["full"]["base"])


def test_a_finished_row_makes_room_at_once(llm: LLM) -> None:
    """A batch of three: the long row never holds up the short ones."""
    order = [number_of(each) for step in Decoder(llm).run(iter(ids(20, 1, 1, 1, 1, 1, 1))) for each in step]
    assert order == [2, 3, 4, 5, 6, 7, 1]


def test_rows_are_taken_only_as_they_are_needed(llm: LLM) -> None:
    taken = 0

    def endless() -> Iterator[Task | Failure]:
        nonlocal taken
        (task,) = ids(3)
        while True:
            taken += 1
            yield task

    running = Decoder(llm).run(endless())
    for _ in range(4):
        next(running)
    running.close()
    assert taken <= 3 * 2 * 3


def test_failures_come_back_a_few_at_a_time(llm: LLM) -> None:
    (bad,) = tasks({"max_tokens": 3})
    steps = [len(step) for step in Decoder(llm).run(iter([bad] * 20))]
    assert sum(steps) == 20
    assert max(steps) == 6


def test_a_decoder_can_run_again_after_it_was_closed(llm: LLM) -> None:
    decoder = Decoder(llm)
    running = decoder.run(iter(ids(9, 9)))
    next(running)
    running.close()
    assert [number_of(each) for step in decoder.run(iter(ids(2))) for each in step] == [1]


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        ({"prompt": "text"}, "the model has no tokenizer"),
        ({"messages": [{"role": "user", "content": "x"}]}, "has no tokenizer, so no chat template"),
        ({"prompt_token_ids": [79]}, "the id of [MASK]"),
        ({"prompt_token_ids": [-1]}, "prompt_token_ids[0] is -1"),
        ({"prompt_token_ids": [1], "max_tokens": 1000}, "the model's limit is 128"),
        ({"prompt_token_ids": [1], "stop": "x"}, "no text to find it in"),
        ({"prompt_token_ids": [1], "max_tokens": 0}, "has no position to denoise"),
    ],
)
def test_what_the_model_refuses_is_that_rows_error(llm: LLM, values: dict[str, Any], fragment: str) -> None:
    good = {"prompt_token_ids": [1, 2]}
    records = run(llm, tasks(good, values, good))
    assert [records[number].failed for number in (1, 2, 3)] == [False, True, False]
    error = records[2].line["error"]
    assert error["code"] == "invalid_request"
    assert fragment in error["message"]


def test_a_tokenizer_that_breaks_hurts_one_row(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(messages: object) -> list[int]:
        raise ZeroDivisionError("template\nbug")

    monkeypatch.setattr(llm, "encode_chat", broken)
    records = run(llm, tasks({"messages": []}, {"prompt_token_ids": [1]}))
    assert records[1].line["error"] == {"code": "internal_error", "message": "ZeroDivisionError: template bug"}
    assert not records[2].failed


def test_a_text_at_which_the_tokenizer_panics_hurts_one_row(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "tokenizer", panicking_tokenizer(llm.config))
    records = run(llm, tasks({"prompt_token_ids": [1]}, {"prompt": "a" * 40}, {"prompt_token_ids": [2]}))
    assert [records[number].failed for number in (1, 2, 3)] == [False, True, False]
    assert "a text cannot be encoded: PanicException" in records[2].line["error"]["message"]


def test_a_text_that_cannot_be_made_hurts_one_row(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(snapshot: Any, *arguments: Any) -> Any:
        if snapshot.request.num_prompt == 1:
            raise KeyError("token")
        return made(snapshot, *arguments)

    made = request_output
    monkeypatch.setattr("surelock.batch.decode.request_output", broken)
    records = run(llm, tasks({"prompt_token_ids": [1]}, {"prompt_token_ids": [1, 2]}))
    assert [records[number].failed for number in (1, 2)] == [True, False]


def test_logits_that_are_not_finite_hurt_one_row(tmp_path: Path) -> None:
    llm = LLM(write_checkpoint(tmp_path))
    # Only rows that have token 5 anywhere see it.
    llm.transformer.embedding.weight[5] = torch.nan
    records = run(llm, tasks({"prompt_token_ids": [1]}, {"prompt_token_ids": [5]}, {"prompt_token_ids": [2]}))
    assert [records[number].failed for number in (1, 2, 3)] == [False, True, False]
    assert records[2].line["error"]["code"] == "nonfinite_logits"


def test_memory_that_runs_out_hurts_one_row(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Engine.step

    def failing_step(self: Engine, *, watched: bool = True) -> Any:
        snapshots = step(self, watched=watched)
        for snapshot in snapshots:
            if snapshot.request.num_prompt == 1:
                snapshot.request.error = OutOfMemoryError("memory ran out for a canvas")
        return snapshots

    monkeypatch.setattr(Engine, "step", failing_step)
    rows = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": [1], "max_tokens": 2}}
    records = run(llm, tasks(rows, {"prompt_token_ids": [1, 2]}))
    assert records[1].line["response"]["status_code"] == 503
    assert records[1].line["error"] == {"code": "out_of_memory", "message": "memory ran out for a canvas", "row": 1}
    assert not records[2].failed


def test_an_engine_that_stops_ends_the_job(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("CUDA error\nof some kind")

    monkeypatch.setattr(Engine, "_step", broken)
    with pytest.raises(JobError, match=r"decoding stopped at an error \(RuntimeError: CUDA error of some kind\)"):
        run(llm, ids(3))
