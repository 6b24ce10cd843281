"""`surelock run-batch` end to end: a model of a folder, real processes, real signals."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from surelock.cli.main import app
from surelock.cli.run_batch import resume_command
from tests.cli.conftest import assert_one_line_error
from tests.cli.forked_runs import ForkedRuns, Run
from tests.server.tiny_llm import write_tiny_folder

UNFINISHED = 75


def plain(number: int) -> dict[str, Any]:
    return {"prompt": f"Chapter {number}. The", "max_tokens": 4 + number % 5, "temperature": 0.7 * (number % 2)}


def openai(number: int, **body: Any) -> dict[str, Any]:
    url, content = "/v1/completions", {"prompt": "The sea"}
    if number % 2:
        url, content = "/v1/chat/completions", {"messages": [{"role": "user", "content": "Say hello"}]}  # type: ignore[dict-item]
    return {"custom_id": f"name {number}", "method": "POST", "url": url, "body": content | {"max_tokens": 4} | body}


ROWS = [plain(1), openai(2), openai(3, temperature=1, seed=5), {"prompt": 5}, *map(plain, range(5, 24)), openai(2)]
# Still running when the others are done, so that a signal never comes too late.
ROWS += [openai(0, suffix=" was grey."), plain(25) | {"max_tokens": 24}]


def write(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """The input, and a tiny model beside it."""
    write_tiny_folder(folder / "model", max_sequence_length=512)
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "not JSON\n")
    return path


def arguments(folder: Path, *more: str) -> list[str]:
    files = ["-i", str(folder / "in.jsonl"), "-o", str(folder / "out.jsonl"), "--model", str(folder / "model")]
    return ["run-batch", *files, "--seed", "3", *more]


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("out*.jsonl")}


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedRuns]:
    with ForkedRuns(tmp_path_factory.mktemp("helper")) as forked:
        yield forked


@pytest.fixture(scope="module")
def whole(runs: ForkedRuns, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A job nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder)
    run = runs.run(*arguments(folder))
    assert run.code == 0, run.stderr
    return folder, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def run_here(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_every_row_has_its_answer_or_its_error(whole: tuple[Path, Run]) -> None:
    folder, run = whole
    answers, errors = read(folder / "out.jsonl"), read(folder / "out.errors.jsonl")
    assert len(answers) == 24
    first, completion, chat = answers[:3]
    assert first["row"] == 1
    assert (first["generation_tokens"], first["finish_reason"]) == (5, "length")
    assert completion["custom_id"] == "name 2"
    assert completion["response"]["status_code"] == 200
    assert completion["response"]["body"]["object"] == "text_completion"
    assert completion["response"]["body"]["usage"]["completion_tokens"] == 4
    body = chat["response"]["body"]
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["usage"]["surelock"]["seed"] == 5
    assert [line["error"]["message"].split(";")[0].split(":")[0] for line in errors] == [
        "prompt is 5",
        "custom_id 'name 2' is also that of row 2",
        "it is not JSON",
    ]
    assert errors[1]["response"]["status_code"] == 400
    for fragment in ("24 answered, 3 failed", "seed                    3", "out.errors.jsonl", "FLOPs saved"):
        assert fragment in run.stderr


def test_answers_are_those_of_the_library(whole: tuple[Path, Run]) -> None:
    from surelock import LLM, SamplingParams

    llm, params = LLM(str(whole[0] / "model")), SamplingParams(max_tokens=4)
    bodies = {
        answer["custom_id"]: answer["response"]["body"]
        for answer in read(whole[0] / "out.jsonl")
        if "response" in answer
    }
    assert bodies["name 2"]["choices"][0]["text"] == llm.generate("The sea", params)[0].text
    infilled = llm.infill(["The sea", 4, " was grey."], params)
    assert bodies["name 0"]["choices"][0]["text"] == infilled.gaps[0].text
    assert bodies["name 0"]["usage"]["completion_tokens"] == 4


def journal(folder: Path) -> Path:
    return folder / "out.jsonl.surelock" / "rows.journal"


def assert_completes(runs: ForkedRuns, folder: Path, whole: tuple[Path, Run]) -> None:
    run = runs.run(*arguments(folder))
    assert run.code == 0, run.stderr
    assert outputs(folder) == outputs(whole[0])


def test_killed_and_resumed_the_files_are_the_same(runs: ForkedRuns, folder: Path, whole: tuple[Path, Run]) -> None:
    for num_rows in (3, 14):
        run = runs.run(*arguments(folder), signals=[signal.SIGKILL], at_rows=num_rows)
        assert run.code == -signal.SIGKILL, run.stderr
        assert journal(folder).read_bytes().count(b"\n") >= num_rows
    assert_completes(runs, folder, whole)


@pytest.mark.slow
def test_fifty_kills_lose_and_duplicate_nothing(runs: ForkedRuns, tmp_path: Path, whole: tuple[Path, Run]) -> None:
    """At any moment: while the model is loaded, rows are decoded or the output is written."""
    chance, num_killed = random.Random(0), 0
    for attempt in range(100):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        write(folder)
        for _ in range(3):
            moment = chance.uniform(0.0, whole[1].seconds)
            run = runs.run(*arguments(folder), signals=[signal.SIGKILL], at_seconds=moment)
            num_killed += run.code == -signal.SIGKILL
        assert_completes(runs, folder, whole)
        if num_killed >= 50:
            return
    pytest.fail(f"only {num_killed} runs were killed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_in_order(
    runs: ForkedRuns, folder: Path, whole: tuple[Path, Run], number: signal.Signals
) -> None:
    run = runs.run(*arguments(folder), signals=[number], at_rows=5)
    assert run.code == UNFINISHED, run.stderr
    assert run.stderr.startswith("note: stopped; what is done is kept. Resume with: surelock run-batch -i ")
    assert run.stderr.count("\n") == 1
    assert outputs(folder) == {}
    # Another one, and again at once: whichever ends the run, nothing is lost.
    run = runs.run(*arguments(folder), signals=[number] * 2, at_rows=12)
    assert run.code in (UNFINISHED, -number), run.stderr
    if number == signal.SIGTERM:
        assert_completes(runs, folder, whole)


def test_a_signal_before_anything_has_begun(runs: ForkedRuns, folder: Path) -> None:
    run = runs.run(*arguments(folder), signals=[signal.SIGTERM], at_seconds=0.1)
    assert run.code in (UNFINISHED, -signal.SIGTERM), run.stderr
    assert outputs(folder) == {}


def test_the_resume_line_does_not_begin_anew() -> None:
    line = ["run-batch", "-i", "a b.jsonl", "--force-new", "-o", "out.jsonl", "--retry-errors"]
    assert resume_command(line) == "surelock run-batch -i 'a b.jsonl' -o out.jsonl"


def test_a_full_disk_is_one_line_and_the_job_goes_on(runs: ForkedRuns, folder: Path, whole: tuple[Path, Run]) -> None:
    run = runs.run(*arguments(folder), file_limit=4096)
    assert run.code == 1
    assert run.stderr.count("\n") == 1, run.stderr
    assert "rows.journal cannot be written: File too large" in run.stderr
    assert 0 < journal(folder).stat().st_size <= 4096
    assert journal(folder).read_bytes().endswith(b"\n")
    assert_completes(runs, folder, whole)
    # Now every row is in the journal, and the output does not fit.
    (folder / "out.jsonl").unlink()
    run = runs.run(*arguments(folder), file_limit=4096)
    assert run.code == 1
    assert "out.jsonl cannot be written: File too large; the journal is kept" in run.stderr
    assert not list(folder.glob("*.partial"))
    assert_completes(runs, folder, whole)


def test_a_complete_job_loads_no_model(whole: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr("surelock.cli.run_batch.load_llm", fail)
    before = outputs(whole[0])
    result = run_here(*arguments(whole[0], "--json"))
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert (summary["rows"], summary["rows_failed"], summary["rows_done_before"]) == (27, 3, 27)
    assert summary["tokens_per_second"] is None
    assert outputs(whole[0]) == before


def test_options_of_another_job_are_refused(whole: tuple[Path, Run]) -> None:
    result = run_here(*arguments(whole[0], "--no-lock"))
    assert_one_line_error(result, "lock was None when this job began and is False now: restore it, or start over")


def test_a_second_process_is_told_to_come_back(whole: tuple[Path, Run]) -> None:
    import fcntl

    with (whole[0] / "out.jsonl.surelock" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_one_line_error(run_here(*arguments(whole[0])), "another process works on", UNFINISHED)


@pytest.mark.parametrize(
    ("more", "fragment"),
    [
        (["--ray-actors", "2"], "--ray-actors has no effect without --ray"),
        (["--max-batch-size", "0"], "max_batch_size is 0"),
        (["--temperature", "nan"], "temperature is nan"),
    ],
)
def test_bad_options(folder: Path, more: list[str], fragment: str) -> None:
    assert_one_line_error(run_here(*arguments(folder, *more)), fragment)
    assert not (folder / "out.jsonl.surelock").exists()


def test_a_missing_input(tmp_path: Path) -> None:
    assert_one_line_error(run_here(*arguments(tmp_path)), "in.jsonl does not exist")


def test_csv_with_a_prompt_column(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("question,max_tokens\nWho?,3\nWhy?,\n")
    result = run_here(
        "run-batch", "-i", str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.jsonl"), "--prompt-column", "question",
        "-n", "2",
    )  # fmt: skip
    assert result.exit_code == 0
    assert [line["generation_tokens"] for line in read(tmp_path / "out.jsonl")] == [3, 2]
    assert not (tmp_path / "out.errors.jsonl").exists()
    assert result.stdout == ""


def test_no_answer_at_all(tmp_path: Path) -> None:
    write(tmp_path, [{"prompt": 5}])
    result = run_here(*arguments(tmp_path))
    assert result.exit_code == 65
    assert (
        result.stderr.splitlines()[-1]
        == "error: none of the 2 rows has an answer; the first: prompt is 5; it must be a string"
    )
    assert run_here(*arguments(tmp_path)).exit_code == 65


def test_a_table_without_the_prompt_loads_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surelock.cli.run_batch.load_llm", lambda *arguments: pytest.fail("a model was loaded"))
    (tmp_path / "rows.csv").write_text("id,question\n1,Hi\n")
    for more, name in ((), "'prompt'"), (["--prompt-column", "other"], "'other'"):
        result = run_here("run-batch", "-i", str(tmp_path / "rows.csv"), "-o", str(tmp_path / "out.csv"), *more)
        assert_one_line_error(result, f"rows.csv has columns id, question and no {name}: pass --prompt-column")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    result = run_here("run-batch", "-i", str(tmp_path / "rows.csv"), "-o", "out.csv", "--prompt-column", "\udcff")
    assert_one_line_error(result, "--prompt-column '\\udcff' is not UTF-8")
