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
from tests.batch.jobs import FakeWorker, job, odd_columns, read_lines, write_lines

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
def dying(file, path, *carried):
    with writing(file, path, *carried) as write:
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

    def onto_a_full_disk(file: Any, path: Path, *carried: Any) -> Any:
        return writing(file if isinstance(file, BytesIO) else FullDisk(), path, *carried)

    monkeypatch.setattr("surelock.batch.outputs.writing", onto_a_full_disk)
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


@pytest.mark.parametrize("suffix", KINDS)
def test_columns_of_a_csv_go_with_the_answers(tmp_path: Path, suffix: str) -> None:
    needs(suffix)
    (tmp_path / "in.csv").write_text(
        'id,text,prompt,max_tokens,custom_id,input_text\n007,a,"x,y",,n,b\n8,,,,,\n9,,z,5,,\n'
    )
    outcome = run_job(job(tmp_path, input=tmp_path / "in.csv", output=tmp_path / f"out{suffix}"), FakeWorker())
    assert outcome.totals.num_failed == 1
    first, last = read_table(tmp_path / f"out{suffix}")
    own = ["id", "input_input_text", "prompt", "max_tokens", "input_text"]
    assert list(first) == [*COLUMNS, *own]
    assert (first["text"], first["custom_id"]) == ("x,y!", "n")
    assert [first[name] for name in own] == ["007", "a", "x,y", "", "b"]
    assert [last[name] for name in own] == ["9", "", "z", "5", ""]


@pytest.mark.parametrize("suffix", KINDS)
def test_keys_of_json_lines_go_with_the_answers(tmp_path: Path, suffix: str) -> None:
    needs(suffix)
    openai = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "o"}}
    rows = [{"prompt": "a", "id": 7, "tags": ["x", {"y": None}]}, openai, {"prompt": "b", "late": "é"}]
    write_lines(tmp_path / "in.jsonl", rows)
    run_job(job(tmp_path, output=tmp_path / f"out{suffix}"), FakeWorker())
    table = read_table(tmp_path / f"out{suffix}")
    assert [[row[name] for name in ("prompt", "id", "tags", "late")] for row in table] == [
        ["a", "7", '["x",{"y":null}]', ""],
        ["", "", "", ""],
        ["b", "", "", "é"],
    ]


def parquet_job(folder: Path, name: str, columns: dict[str, Any], **options: Any) -> Any:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(columns), folder / "in.parquet", **options)
    run_job(job(folder, input=folder / "in.parquet", output=folder / name), FakeWorker())
    return parquet.read_table(folder / name) if name.endswith(".parquet") else read_table(folder / name)


def test_columns_of_a_parquet_file_stay_what_they_are(tmp_path: Path) -> None:
    columns = odd_columns()
    table = parquet_job(tmp_path, "out.parquet", {"prompt": ["a", "b"], **columns})
    assert table.column("text").to_pylist() == ["a!", "b!"]
    for name, column in columns.items():
        # Whether a text is stored once or often is the file's business.
        expected = column.dictionary_decode() if name == "kind" else column
        assert table.column(name).combine_chunks().equals(expected), name


def test_columns_of_a_parquet_file_as_text(tmp_path: Path) -> None:
    first, second = parquet_job(tmp_path, "out.csv", {"prompt": ["a", "b"], **odd_columns()})
    assert {name: first[name] for name in odd_columns()} == {
        "nanoseconds": "1970-01-01 00:00:00.000000001",
        "elsewhere": "1970-01-01 00:00:01.000000Z",
        "time": "00:00:00.000000001",
        "span": "1",
        "far": "100000000",
        "day": "2026-01-02",
        "latin": "wei\ufffd",
        "raw": "ff00",
        "nested": '[{"at":"2006-07-14 23:58:24.606846977Z","x":1.5}]',
        "kind": "x",
        "url": "https://a",
        "body": "<p>",
        "id": "7",
        "nothing": "",
    }
    assert [second[name] for name in ("elsewhere", "nested", "raw", "body", "id")] == ["", "", "", "", "8"]


@pytest.mark.parametrize("suffix", KINDS)
def test_carried_rows_line_up_whatever_fails_and_however_the_file_is_cut(tmp_path: Path, suffix: str) -> None:
    prompts = [None if number % 7 == 3 else f"row {number}" for number in range(2500)]
    columns = {"id": list(range(2500)), "prompt": prompts}
    parquet_job(tmp_path, f"out{suffix}", columns, row_group_size=600)
    table = read_table(tmp_path / f"out{suffix}")
    assert [(row["text"], row["id"]) for row in table] == [
        (f"{prompt}!", str(number)) for number, prompt in enumerate(prompts) if prompt
    ]


@pytest.mark.parametrize("suffix", KINDS)
def test_a_parquet_file_of_nothing_but_requests(tmp_path: Path, suffix: str) -> None:
    rows = {"custom_id": ["a", "b"], "method": ["POST"] * 2, "url": ["/v1/completions"] * 2}
    parquet_job(tmp_path, f"out{suffix}", rows | {"body": [{"prompt": "o"}, {"prompt": "p"}]})
    table = read_table(tmp_path / f"out{suffix}")
    assert [(row["custom_id"], row["text"]) for row in table] == [("a", "o!"), ("b", "p!")]


def test_groups_end_before_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(outputs, "BYTES_PER_GROUP", 1000)
    parquet_job(tmp_path, "out.parquet", {"prompt": ["a"] * 9, "long": [str(number) * 400 for number in range(9)]})
    with parquet.ParquetFile(tmp_path / "out.parquet") as file:
        assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [3, 3, 3]


def test_too_many_keys_for_columns(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.jsonl", [{"prompt": "a", **{f"key {number}": 1 for number in range(1000)}}])
    with pytest.raises(ParameterError, match=r"has more than 1000 columns, .*: name the --output \.jsonl"):
        run_job(job(tmp_path, output=tmp_path / "out.csv"), FakeWorker())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]
    run_job(job(tmp_path), FakeWorker())


def test_columns_that_changed_since_are_not_carried(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def change(progress: object) -> None:
        parquet.write_table(arrow.table({"prompt": ["a"], "id": [8]}), tmp_path / "in.parquet")

    parquet.write_table(arrow.table({"prompt": ["a"], "id": [7]}), tmp_path / "in.parquet")
    with pytest.raises(JobError, match="changed while the job ran; restore it"):
        run_job(
            job(tmp_path, input=tmp_path / "in.parquet", output=tmp_path / "out.csv"), FakeWorker(), on_progress=change
        )
    assert not files(tmp_path)


@pytest.mark.parametrize(
    "line", [{}, PLAIN | {"steps": None}, PLAIN | {"notes": None}, openai_line({}), {"response": 5}]
)
def test_a_record_that_is_no_answer(line: dict[str, Any]) -> None:
    with pytest.raises(JobError, match="record of row 5 is no answer of this version; start over with --force-new"):
        cells(record(5, line))
