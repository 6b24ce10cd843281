from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from surelock.batch import csv_rows, json_lines, parquet_rows
from surelock.batch.input import check_source, read_rows
from surelock.batch.task import Row
from surelock.errors import ParameterError, PromptError
from tests.batch.jobs import not_utf8, odd_columns


def rows_of(path: Path) -> list[Row]:
    return list(read_rows(path))


def assert_reading_begins_anywhere(path: Path) -> None:
    rows = rows_of(path)
    for index, row in enumerate(rows):
        assert list(read_rows(path, number=row.number, start=row.start)) == rows[index:]


class TestJsonLines:
    def test_rows_and_where_they_begin(self, tmp_path: Path) -> None:
        path = tmp_path / "in.jsonl"
        path.write_bytes(b'\xef\xbb\xbf{"prompt":"a"}\r\n\n   \n{"prompt":"\xc3\xa9"}\n{"prompt":"no line feed"}')
        assert [row.values["prompt"] for row in rows_of(path)] == ["a", "é", "no line feed"]
        assert [row.number for row in rows_of(path)] == [1, 2, 3]
        assert_reading_begins_anywhere(path)

    @pytest.mark.parametrize(
        ("line", "fragment"),
        [
            (b"{", "it is not JSON"),
            (b"\xff", "it is not JSON"),
            (b'{"prompt": "\\ud800"}', "it is not JSON"),
            (b'{"temperature": NaN}', "it is not JSON"),
            (b"[" * 100_000, "it is not JSON"),
            (b'["prompt"]', "it must be a JSON object"),
            (b"null", "it must be a JSON object"),
            (b'{"prompt": "a", "pr\\u006fmpt": "b"}', "it has the key 'prompt' twice"),
            (b'{"prompt": "a", "lock": {"x": 1, "x": 2}}', "it has the key 'x' twice"),
        ],
    )
    def test_a_bad_line_is_the_fault_of_its_row(self, tmp_path: Path, line: bytes, fragment: str) -> None:
        path = tmp_path / "in.jsonl"
        path.write_bytes(line + b'\n{"prompt":"good"}\n')
        bad, good = rows_of(path)
        assert bad.fault is not None
        assert fragment in bad.fault
        assert good.values == {"prompt": "good"}

    @pytest.mark.parametrize("depth", [100, 1000, 1023])
    def test_a_deep_line_is_read_or_its_own_fault(self, tmp_path: Path, depth: int) -> None:
        """Python's parser, which looks for repeated keys, may give up where orjson does not."""
        path = tmp_path / "in.jsonl"
        path.write_bytes(b'{"extra": ' + b"[" * depth + b"]" * depth + b'}\n{"prompt":"good"}\n')
        deep, good = rows_of(path)
        assert ("extra" in deep.values) != (deep.fault is not None)
        assert good.values == {"prompt": "good"}

    def test_a_line_too_long_is_skipped_and_not_held(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(json_lines, "MAX_ROW_BYTES", 20)
        path = tmp_path / "in.jsonl"
        path.write_bytes(b"x" * 100 + b'\n{"prompt":"good"}\n' + b"x" * 101)
        first, good, last = rows_of(path)
        assert first.fault == "its line has 101 bytes; the limit is 20: shorten the prompt"
        assert good.values == {"prompt": "good"}
        assert last.fault is not None
        assert_reading_begins_anywhere(path)

    def test_identity_is_number_and_content(self, tmp_path: Path) -> None:
        path = tmp_path / "in.jsonl"
        path.write_bytes(b'{"prompt":"a"}\n{"prompt":"a"}\n{"prompt":"b"}\n')
        first, second, third = rows_of(path)
        assert first.digest == second.digest != third.digest
        assert len({row.identity for row in (first, second, third)}) == 3
        assert len({row.seed(5) for row in (first, second, third)} | {first.seed(6)}) == 4
        assert all(0 <= row.seed(2**63 - 1) < 2**63 for row in (first, second, third))
        # A seed is part of a job that was begun, maybe by an earlier version.
        assert first.seed(5) == 3237917970949510071


class TestCsv:
    def read(self, tmp_path: Path, content: bytes) -> list[Row]:
        path = tmp_path / "in.csv"
        path.write_bytes(content)
        assert_reading_begins_anywhere(path)
        return rows_of(path)

    def test_quotes_line_breaks_and_parameters(self, tmp_path: Path) -> None:
        lines = [
            "\ufeffprompt,max_tokens,lock,stop,unmasking,answer",
            '"a ""b"",\nc",8,"{""kl_threshold"": 0.1}",5,random,7',
            "",
            'é,,false,"[""x""]",,',
        ]
        first, second = self.read(tmp_path, "\r\n".join(lines).encode())
        assert first.values == {
            "prompt": 'a "b",\nc',
            "max_tokens": 8,
            "lock": {"kl_threshold": 0.1},
            "stop": "5",
            "unmasking": "random",
            "answer": "7",
        }
        assert second.values == {"prompt": "é", "lock": False, "stop": ["x"]}

    @pytest.mark.parametrize(
        ("line", "fragment"),
        [
            (b"a,1,2", "it has 3 cells; the header has 2"),
            (b"a", "it has 1 cells; the header has 2"),
            (b"\xff,1", "'prompt' is not UTF-8"),
            (b"a,many", "max_tokens is 'many'; it must be JSON"),
        ],
    )
    def test_a_bad_row_is_its_own_fault(self, tmp_path: Path, line: bytes, fragment: str) -> None:
        bad, good = self.read(tmp_path, b"prompt,max_tokens\n" + line + b"\ngood,3\n")
        assert bad.fault is not None
        assert fragment in bad.fault
        assert good.values == {"prompt": "good", "max_tokens": 3}

    @pytest.mark.parametrize(
        ("content", "fragment"),
        [
            (b'"a"b\n', "no header that is CSV"),
            (b"prompt,prompt\na,b\n", "the same name"),
            (b"prompt,gr\xf6\xdfe\na,wei\xdf\n", r"is not UTF-8, its column 'gr\\udcf6\\udcdfe' for one; convert it"),
        ],
    )
    def test_a_bad_header_is_the_files_fault(self, tmp_path: Path, content: bytes, fragment: str) -> None:
        path = tmp_path / "in.csv"
        path.write_bytes(content)
        with pytest.raises(PromptError, match=fragment):
            rows_of(path)

    @pytest.mark.parametrize("num_lines", [40_000, 2])
    def test_a_cell_may_be_as_long_as_a_row(self, tmp_path: Path, num_lines: int) -> None:
        """Of many lines or of two: Python's own limit is 131,072 characters, at which the rest became rows."""
        cell = "\n".join("x" * (400_000 // num_lines) for _ in range(num_lines))
        first, second = self.read(tmp_path, f'prompt,max_tokens\n"{cell}",3\nb,4\n'.encode())
        assert (first.values, second.values) == ({"prompt": cell, "max_tokens": 3}, {"prompt": "b", "max_tokens": 4})

    @pytest.mark.parametrize(
        ("content", "fragment"),
        [
            (
                b'"say "hi\nthere", ok",1\n',
                r"is not CSV from row 2 on, which begins at byte 22 \(.*write its quotes twice",
            ),
            (b'"never closed,1\nb,2\nc,3\n', "is not CSV from row 2 on, which begins at byte 22"),
            (b'"' + b"long cell\n" * 20 + b'",1\nb,2\n', "the row that begins at byte 22 has more than 100 bytes"),
            (b"x" * 101 + b",1\n", "the row that begins at byte 22 has more than 100 bytes"),
        ],
    )
    def test_nothing_inside_quotes_becomes_a_row(
        self, tmp_path: Path, content: bytes, fragment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a broken quote no line is known to begin a row, so the file is refused."""
        monkeypatch.setattr(csv_rows, "MAX_ROW_BYTES", 100)
        path = tmp_path / "in.csv"
        path.write_bytes(b"prompt,max_tokens\na,1\n" + content)
        with pytest.raises(PromptError, match=fragment):
            rows_of(path)


class TestParquet:
    def test_without_pyarrow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        (tmp_path / "in.parquet").touch()
        with pytest.raises(ParameterError, match=r"needs pyarrow: pip install 'surelock\[parquet\]'"):
            rows_of(tmp_path / "in.parquet")

    def test_rows_and_where_they_begin(self, tmp_path: Path) -> None:
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "in.parquet"
        columns: dict[str, list[Any]] = {
            "prompt": [f"prompt {number}" for number in range(10)],
            "max_tokens": [None if number == 3 else number for number in range(10)],
            "raw": [b"\xff"] * 10,
        }
        parquet.write_table(arrow.table(columns), path, row_group_size=4)
        rows = rows_of(path)
        assert rows[2].values == {"prompt": "prompt 2", "max_tokens": 2}
        assert rows[3].values == {"prompt": "prompt 3"}
        assert [row.number for row in rows] == list(range(1, 11))
        assert len({row.start for row in rows}) == 3
        assert_reading_begins_anywhere(path)

    def test_what_is_not_parquet(self, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow")
        (tmp_path / "in.parquet").write_text("text")
        with pytest.raises(PromptError, match="cannot be read as Parquet: ArrowInvalid"):
            rows_of(tmp_path / "in.parquet")

    def write(self, tmp_path: Path, columns: dict[str, Any], **options: Any) -> Path:
        arrow = pytest.importorskip("pyarrow")
        path = tmp_path / "in.parquet"
        pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path, **options)
        return path

    def test_columns_that_mean_nothing_here_do_not_matter(self, tmp_path: Path) -> None:
        """Whatever Python makes of them, and whether it can hold them."""
        path = self.write(tmp_path, {"prompt": ["a", "b"], "max_tokens": [3, None], **odd_columns()})
        check_source(path)
        assert [row.values for row in rows_of(path)] == [{"prompt": "a", "max_tokens": 3}, {"prompt": "b"}]
        assert_reading_begins_anywhere(path)

    def test_a_cell_that_python_cannot_hold_is_the_fault_of_its_row(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, {"prompt": not_utf8(b"a", b"\xff", b"c"), "max_tokens": [1, 2, 3]})
        first, bad, last = rows_of(path)
        assert (first.values, last.values) == ({"prompt": "a", "max_tokens": 1}, {"prompt": "c", "max_tokens": 3})
        assert bad.fault is not None
        assert bad.fault.startswith("'prompt' cannot be read: UnicodeDecodeError")
        assert len({row.digest for row in (first, bad, last)}) == 3
        assert_reading_begins_anywhere(path)

    def test_what_a_small_file_says_it_holds_is_looked_at_before_it_is_decoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parquet_rows, "MAX_GROUP_BYTES", 1 << 20)
        zeros = [0] * 200_000
        for columns in ({"prompt_token_ids": [[1], zeros]}, {"prompt": ["0" * (1 << 21)]}):
            path = self.write(tmp_path, columns)
            assert path.stat().st_size < 200_000
            with pytest.raises(
                PromptError, match=r"row group 1 holds \d+ bytes .*; the limit is 1048576: write the file"
            ):
                rows_of(path)
        # Not read, so of no interest.
        assert len(rows_of(self.write(tmp_path, {"prompt": ["a", "b"], "other": [zeros, zeros]}))) == 2

    def test_a_text_that_is_stored_once_is_not_held_a_thousand_times(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parquet_rows, "MAX_ROW_BYTES", 1000)
        path = self.write(tmp_path, {"prompt": ["0" * 400] * 50 + [None, "end"]})
        with parquet_rows._opened(path) as file:
            sizes = [batch.num_rows for batch in parquet_rows._batches(path, file, 0, ["prompt"])]
        assert sum(sizes) == 52
        assert max(sizes) <= 4
        assert [len(row.values.get("prompt", "")) for row in rows_of(path)] == [400] * 50 + [0, 3]

    def test_a_cell_longer_than_a_row_may_be(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet_rows, "MAX_ROW_BYTES", 100)
        bad, good = rows_of(self.write(tmp_path, {"prompt": ["0" * 101, "0" * 100]}))
        assert bad.fault == "'prompt' cannot be read: it has 101 bytes; the limit is 100: shorten it"
        assert good.values == {"prompt": "0" * 100}

    def test_two_columns_of_one_name(self, tmp_path: Path) -> None:
        arrow = pytest.importorskip("pyarrow")
        path = tmp_path / "in.parquet"
        table = arrow.Table.from_arrays([arrow.array(["a"]), arrow.array(["b"])], names=["prompt", "prompt"])
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
        with pytest.raises(PromptError, match="has two columns of the same name; rename one"):
            check_source(path)

    def test_names_with_dots(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, {"prompt.old": ["x"], "prompt": ["a"], "prompt.x": [{"y": 1}]})
        assert [row.values for row in rows_of(path)] == [{"prompt": "a"}]
        assert [row.values for row in read_rows(path, "prompt.old")] == [{"prompt.old": "x"}]
