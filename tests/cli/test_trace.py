from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import FakeLibrary, Run


def test_one_line_per_step(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    result = run("generate", "one two", "three", "-n", "6", "--trace", str(path), "--json")
    outputs = [json.loads(line) for line in result.stdout.splitlines()]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [path.name for path in tmp_path.iterdir()] == ["trace.jsonl"]
    for index, output in enumerate(outputs):
        own = [line for line in lines if line["prompt"] == index]
        assert [line["step"] for line in own] == list(range(1, 7))
        assert [line["rows"] for line in own] == output["stats"]["active_rows"]
        assert [line["masked"] for line in own] == [5, 4, 3, 2, 1, 0]
        committed = sorted((position, token) for line in own for position, token, _ in line["commits"])
        assert [token for _, token in committed] == output["token_ids"]
        locked_at: list[int | None] = [None] * (output["prompt_tokens"] + 6)
        for line in own:
            for position in line["locks"]:
                locked_at[position] = line["step"]
        assert locked_at == output["stats"]["locked_at"]
    assert set(lines[0]["kl"].values()) == {None}
    assert all(value > 0 for line in lines if line["step"] > 1 for value in line["kl"].values())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left")])
def test_an_aborted_run_leaves_a_partial_file_and_the_old_one(
    run: Run, library: FakeLibrary, tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("old")
    library.settings |= {"error": error, "error_at_step": 3}
    assert run("generate", "x", "-n", "6", "--trace", str(path)).exit_code in (1, 130)
    assert path.read_text() == "old"
    lines = (tmp_path / "trace.jsonl.partial").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_a_link_keeps_pointing_at_its_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old")
    link = tmp_path / "link.jsonl"
    link.symlink_to("real.jsonl")
    assert run("generate", "x", "-n", "2", "--trace", str(link)).exit_code == 0
    assert link.is_symlink()
    assert len((tmp_path / "real.jsonl").read_text().splitlines()) == 2
