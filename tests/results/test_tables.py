"""The result files of a measurement hold every row in full, and appear whole."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import orjson
import pytest

from surelock.results.tables import csv_table, markdown_table, write_results

ROWS = [{"rule": "none", "share": 1 / 3, "p": None}, {"rule": "paper", "share": 12345.678, "p": None}]
FACTS = {"command": "surelock", "method": "Counted."}


def test_every_column_of_any_row_is_in_the_csv_file_in_full() -> None:
    rows = [*ROWS, {"rule": "late", "num": 3}]
    read = list(csv.DictReader(io.StringIO(csv_table(rows))))
    assert list(read[0]) == ["rule", "share", "p", "num"]
    assert float(read[0]["share"]) == 1 / 3
    assert read[2] == {"rule": "late", "share": "", "p": "", "num": "3"}


def test_readers_get_three_digits_and_no_empty_column() -> None:
    assert markdown_table(ROWS).splitlines() == [
        "| rule | share |", "| --- | ---: |", "| none | 0.333 |", "| paper | 12,346 |",
    ]  # fmt: skip


def test_files_of_a_measurement(tmp_path: Path) -> None:
    paths = write_results(tmp_path, "m", rows=ROWS, facts=FACTS, title="Title", samples=[{"text": "a"}, {"text": "b"}])
    assert [path.name for path in paths] == ["m.csv", "m.md", "m.json", "m_samples.jsonl"]
    assert orjson.loads(paths[2].read_bytes()) == {**FACTS, "rows": ROWS}
    assert paths[1].read_text() == f"# Title\n\nCounted.\n\n{markdown_table(ROWS)}"
    assert [orjson.loads(line)["text"] for line in paths[3].read_bytes().splitlines()] == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)


def test_the_summary_may_stand_in_the_json_file_and_single_rows_in_the_csv_file(tmp_path: Path) -> None:
    paths = write_results(tmp_path, "m", rows=ROWS, facts=FACTS | {"rows": [{"all": 2}]}, page="Page.")
    assert [path.name for path in paths] == ["m.csv", "m.md", "m.json"]
    assert orjson.loads(paths[2].read_bytes())["rows"] == [{"all": 2}]
    assert paths[0].read_text() == csv_table(ROWS)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path, "m", rows=ROWS, facts=FACTS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_results(tmp_path, "m", rows=ROWS[:1], facts=FACTS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pictures_have_the_same_bytes_each_time() -> None:
    pytest.importorskip("matplotlib")
    from surelock.results.figures import image, new_figure

    def drawn(kind: str) -> bytes:
        figure, (axes,) = new_figure(1, (3, 2), "Title")
        axes.plot([1, 2], [3, 4])
        return image(figure, kind)

    assert drawn("svg") == drawn("svg")
    assert drawn("png") == drawn("png")
    assert b"<svg" in drawn("svg")
