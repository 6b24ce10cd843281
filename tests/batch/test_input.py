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
