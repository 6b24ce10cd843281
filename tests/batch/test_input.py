from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from surelock.batch import input as input_module
from surelock.batch.input import check_source, scan
from surelock.errors import JobError, ParameterError, PromptError
from tests.batch.jobs import write_lines


def test_what_a_scan_finds(tmp_path: Path) -> None:
    names = ["a", "b", "a", None, None, "5", "b", 5]
    path = write_lines(tmp_path / "in.jsonl", [{"custom_id": name} for name in names])
    found = scan(path)
    assert found.num_rows == 8
    assert found.twins == {3: 1, 7: 2, 8: 6}
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [row.number for row in found.rows(number=6)] == [6, 7, 8]
    assert list(found.rows(number=9)) == []


def test_no_row_at_all(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", [b"", b"  "])
    with pytest.raises(PromptError, match="holds no row"):
        scan(path)


def test_a_million_rows_take_a_few_bytes_each(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", [{"prompt": "x" * 500}] * 1000)
    found = scan(path)
    assert sum(len(values) * values.itemsize for values in (found.digests, found.starts)) == 16_000


@pytest.mark.parametrize(
    ("rows", "fragment"),
    [
        (["a", "x", "c"], "changed at row 2 while the job ran"),
        (["a", "b"], "was cut to 2 rows while the job ran"),
        ([], "was cut to 0 rows"),
    ],
)
def test_an_input_that_changes_later(tmp_path: Path, rows: list[str], fragment: str) -> None:
    path = tmp_path / "in.jsonl"
    found = scan(write_lines(path, [{"prompt": text} for text in ("a", "b", "c")]))
    write_lines(path, [{"prompt": text} for text in rows])
    with pytest.raises(JobError, match=fragment):
        list(found.rows())


def test_rows_added_later_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    found = scan(write_lines(path, [{"prompt": "a"}]))
    write_lines(path, [{"prompt": "a"}, {"prompt": "b"}])
    assert [row.number for row in found.rows()] == [1]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"cannot be read: No such file"):
        input_module.scan(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("in.txt", r"none of \.jsonl, \.csv, \.parquet"),
        ("missing.jsonl", "does not exist"),
        ("a.jsonl", "not a regular"),
    ],
)
def test_a_source_that_is_none(tmp_path: Path, name: str, fragment: str) -> None:
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(ParameterError, match=fragment):
        check_source(tmp_path / name)


@pytest.mark.parametrize(
    ("header", "prompt_column", "fragment"),
    [
        ("id,question", "prompt", "in.csv has columns id, question and no 'prompt': pass --prompt-column"),
        ("id,prompt", "question", "in.csv has columns id, prompt and no 'question': pass --prompt-column"),
        ("custom_id,method,url,body", "prompt", "and no 'prompt'"),
        ("prompt,max_token", "prompt", r"in.csv has the column 'max_token'; did you mean max_tokens\? Rename it"),
        ('prompt,"a\n1"', "x", r"in.csv has columns prompt, 'a\\n1' and no 'x'"),
        (",".join(map(str, range(30))), "prompt", "18, 19 and 10 more and no 'prompt'"),
    ],
)
def test_a_table_without_the_prompt_is_refused_at_once(
    tmp_path: Path, header: str, prompt_column: str, fragment: str
) -> None:
    path = tmp_path / "in.csv"
    path.write_text(header + "\n")
    with pytest.raises(ParameterError, match=fragment):
        check_source(path, prompt_column)


def test_tables_with_other_contents(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    openai = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    path = tmp_path / "in.parquet"
    for row in ({"prompt_token_ids": [1]}, {"messages": [{"role": "user", "content": "x"}]}, openai):
        parquet.write_table(arrow.Table.from_pylist([row]), path)
        check_source(path)
        (read,) = scan(path).rows()
        assert read.values == row
    parquet.write_table(arrow.Table.from_pylist([{"id": 1, "url": "https://a", "body": "<p>"}]), path)
    with pytest.raises(ParameterError, match=r"in.parquet has columns id, url, body and no 'prompt'"):
        check_source(path)


def test_names_too_long_for_the_system(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="cannot be read: File name too long"):
        check_source(tmp_path / ("a" * 300 + ".jsonl"))


def test_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_module, "MAX_COLUMNS", 3)
    openai = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    path = write_lines(tmp_path / "in.jsonl", [openai, {"id": 1, "prompt": "x"}, {"prompt": "x", "kind": "k"}, b"{"])
    assert list(scan(path).columns) == ["id", "prompt", "kind"]
    path = write_lines(tmp_path / "in.jsonl", [{f"key {number}": 1} for number in range(20)])
    assert len(scan(path).columns) == 4
    (tmp_path / "in.csv").write_text("id,prompt\n1,a\n")
    assert list(scan(tmp_path / "in.csv").columns) == ["id", "prompt"]


def test_too_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_module, "MAX_ROWS", 3)
    with pytest.raises(PromptError, match="holds more than 3 rows; split it"):
        scan(write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}] * 4))


def test_any_byte_that_changes(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}])
    found = scan(path)
    found.check_unchanged()
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(JobError, match="changed while the job ran"):
        found.check_unchanged()
