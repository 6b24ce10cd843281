"""Answers as tables: what is in them, and that a job which writes one survives as well as one that writes lines."""

from __future__ import annotations

import csv
import errno
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from surelock.batch import outputs
from surelock.batch.job import run_job
from surelock.batch.outputs import COLUMNS, cells, check_output_kind, writing
from surelock.batch.records import Record
from surelock.errors import JobError, ParameterError
from tests.batch.jobs import FakeWorker, job, read_lines, write_lines

KINDS = [".csv", ".parquet"]
PLAIN: dict[str, Any] = {
    "row": 7,
    "custom_id": None,
    "text": 'a "b",\r\n\n=1',
    "finish_reason": "stop",
    "prompt_tokens": 3,
    "generation_tokens": 4,
    "steps": 4,
    "active_ratio": 0.5,
    "flops_ratio": 0.25,
    "seed": (1 << 63) - 1,
    "notes": [],
    "error": None,
}
USAGE = {"steps": 4, "active_ratio": 0.5, "flops_ratio": 0.25, "seed": None, "notes": ["one", "two"]}


def record(number: int, line: dict[str, Any]) -> Record:
    return Record(number, 0, False, 4, (1.0, 2.0), line)


def openai_line(choice: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "surelock": USAGE}
    body = {"choices": [{"index": 0, "finish_reason": "length", **choice}], "usage": usage}
    return {"id": "x", "custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}


RECORDS = [
    record(7, PLAIN),
    record(8, openai_line({"text": "é"})),
    record(9, openai_line({"message": {"role": "assistant", "content": ""}})),
]


def needs(suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")


def read_table(path: Path) -> list[dict[str, Any]]:
    """Every cell as text, missing and empty ones alike."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    parquet = pytest.importorskip("pyarrow.parquet")
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return [{name: "" if value is None or value == [] else str(value) for name, value in row.items()} for row in rows]


def write(path: Path, records: list[Record]) -> None:
    with path.open("wb") as file, writing(file, path) as write_one:
        for each in records:
            write_one(each)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_column_for_each_fact_whatever_the_form_of_the_row(tmp_path: Path, suffix: str) -> None:
    needs(suffix)
    write(tmp_path / f"out{suffix}", RECORDS)
    first, second, third = read_table(tmp_path / f"out{suffix}")
    assert list(first) == list(COLUMNS)
    assert (first["row"], first["text"], first["seed"]) == ("7", PLAIN["text"], str((1 << 63) - 1))
    assert (second["row"], second["custom_id"], second["text"], second["finish_reason"]) == ("8", "a", "é", "length")
    assert (third["text"], third["prompt_tokens"], third["generation_tokens"]) == ("", "3", "4")
    assert "one" in third["notes"]


@pytest.mark.parametrize("suffix", KINDS)
def test_a_table_without_rows_has_its_columns(tmp_path: Path, suffix: str) -> None:
    needs(suffix)
    write(tmp_path / f"out{suffix}", [])
    assert read_table(tmp_path / f"out{suffix}") == []
    if suffix == ".csv":
        assert (tmp_path / "out.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_parquet_has_types_and_groups_of_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(outputs, "ROWS_PER_GROUP", 2)
    path = tmp_path / "out.parquet"
    write(path, RECORDS)
    with parquet.ParquetFile(path) as file:
        assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [2, 1]
    assert parquet.read_table(path).to_pylist() == [cells(each) for each in RECORDS]


def test_parquet_needs_pyarrow_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(outputs, "find_spec", lambda name: None)
    write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}])
    worker = FakeWorker()
    with pytest.raises(ParameterError, match=r"needs pyarrow: pip install 'surelock\[parquet\]'"):
        run_job(job(tmp_path, output=tmp_path / "out.parquet"), worker)
    assert not worker.numbers
    check_output_kind(tmp_path / "out.csv")


ROWS: list[object] = [{"prompt": f"row {number}"} for number in range(1, 9)]
BAD_ROWS: list[object] = [*ROWS[:3], b"{", *ROWS[3:]]


def folder_of(path: Path) -> Path:
    path.mkdir()
    write_lines(path / "in.jsonl", BAD_ROWS)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("out*") if path.is_file()}


@pytest.mark.parametrize("suffix", KINDS)
def test_a_job_that_was_stopped_writes_the_same_table(tmp_path: Path, suffix: str) -> None:
    needs(suffix)
    name = f"out{suffix}"
    whole, stopped = folder_of(tmp_path / "whole"), folder_of(tmp_path / "stopped")
    run_job(job(whole, output=whole / name), FakeWorker())
    with pytest.raises(KeyboardInterrupt):
        run_job(job(stopped, output=stopped / name), FakeWorker(breaks_at=5))
    assert not files(stopped)
    outcome = run_job(job(stopped, output=stopped / name), FakeWorker())
    assert files(stopped) == files(whole)
    assert set(files(whole)) == {name, f"{name}.errors.jsonl"}
    assert outcome.errors == stopped / f"{name}.errors.jsonl"
    assert [line["row"] for line in read_lines(outcome.errors)] == [4]
    assert [row["row"] for row in read_table(stopped / name)] == ["1", "2", "3", "5", "6", "7", "8", "9"]


CODE = """
import os, signal, sys
from pathlib import Path
from surelock.batch import outputs
from surelock.batch.job import run_job
from surelock.batch.outputs import writing
from tests.batch.jobs import FakeWorker, job
from contextlib import contextmanager
name = sys.argv[1]
# One child for each folder and number of rows; only they go on.
for folder, num_rows in zip(map(Path, sys.argv[2::2]), map(int, sys.argv[3::2])):
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
left = [num_rows]
@contextmanager
def dying(file, path):
    with writing(file, path) as write:
        def write_or_die(record):
            if not left[0]:
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            write(record)
        yield write_or_die
outputs.writing = dying
run_job(job(folder, output=folder / name), FakeWorker())
"""


@pytest.mark.parametrize("suffix", KINDS)
def test_killed_while_the_table_is_written(tmp_path: Path, suffix: str) -> None:
    needs(suffix)
    name = f"out{suffix}"
    whole = folder_of(tmp_path / "whole")
    run_job(job(whole, output=whole / name), FakeWorker())
    killed = {folder_of(tmp_path / f"killed {num_rows}"): num_rows for num_rows in (0, 5, 8)}
    arguments = [str(each) for pair in killed.items() for each in pair]
    ended = subprocess.run([sys.executable, "-c", CODE, name, *arguments], check=True, capture_output=True, text=True)
    assert ended.stdout.split() == [str(-signal.SIGKILL)] * 3
    for folder in killed:
        assert name not in files(folder)
        worker = FakeWorker()
        run_job(job(folder, output=folder / name), worker)
        # Every row was in the journal, and the file that was begun is replaced.
        assert not worker.numbers
        assert files(folder) == files(whole)


class FullDisk(BytesIO):
    """Has room for some bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(bytes(data)) > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_full_disk(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(suffix)
    folder = folder_of(tmp_path / "full")
    name = f"out{suffix}"
    monkeypatch.setattr("surelock.batch.outputs.writing", lambda file, path: writing(FullDisk(), path))
    with pytest.raises(JobError, match=r"cannot be written: .*; the journal is kept"):
        run_job(job(folder, output=folder / name), FakeWorker())
    assert not files(folder)
    monkeypatch.undo()
    worker = FakeWorker()
    run_job(job(folder, output=folder / name), worker)
    assert not worker.numbers
    assert len(read_table(folder / name)) == 8


def test_lines_and_tables_of_one_name_are_two_jobs(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "both")
    for name in ("out.jsonl", "out.csv"):
        run_job(job(folder, output=folder / name), FakeWorker())
    assert set(files(folder)) == {"out.jsonl", "out.errors.jsonl", "out.csv", "out.csv.errors.jsonl"}
