"""Whenever writing is cut off, what lies in the folder is a whole result or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from surelock.cli.main import app
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.write import write_result


def _result(rows: list[Row], *pictures: str) -> Result:
    return Result(
        number="4",
        name="small",
        title="A small result",
        method="Nothing was done.",
        facts={"model": "none"},
        tables=[Table("small", "All.", (Column("value", "value"),), rows)],
        pictures=[Picture(name, "Nothing.", lambda: Figure(figsize=(1, 1))) for name in pictures],
        findings=["Nothing."],
    )


@pytest.mark.parametrize("num_whole", range(5))
def test_a_cut_leaves_a_result_that_is_bound(num_whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURELOCK_COMMIT", "abc")
    write_result(tmp_path, _result([{"value": 1}]), "surelock")
    whole: list[Path] = []
    given = Path.write_bytes

    def cut(path: Path, data: bytes) -> int:
        if len(whole) == num_whole:
            given(path, data[: len(data) // 2])
            raise KeyboardInterrupt
        whole.append(path)
        return given(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", cut)
        with pytest.raises(KeyboardInterrupt):
            write_result(tmp_path, _result([{"value": 1}, {"value": 2}], "picture"), "surelock")
    assert json.loads((tmp_path / "small.json").read_text())["tables"][0]["rows"] == [{"value": 1}]
    assert not list(tmp_path.glob("*.partial"))
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 0
    paths = write_result(tmp_path, _result([{"value": 1}, {"value": 2}], "picture"), "surelock")
    assert len(paths) == 5
    assert paths[0].name == "small.md"
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 0
