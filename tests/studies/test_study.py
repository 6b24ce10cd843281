"""The mechanism: cells that are journalled, progress, tables, pages, the command line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from studies import __main__ as command_line
from studies.bench import Bench, Length, Options
from studies.plots import Panel, Plot, Points
from studies.progress import Journal, Progress
from studies.results import read_tables, write_result
from studies.study import Cell, Rows, Settings, Study, Table, run_study, shown

ROOT = Path(__file__).parents[2]


def counting(fails_at: int | None = None) -> tuple[Study, list[int]]:
    """A study of num cells that notes which it has measured, and stops at one."""
    measured: list[int] = []

    def measure(index: int, scale: float) -> Rows:
        if index == fails_at:
            raise KeyboardInterrupt
        measured.append(index)
        return {"squares": [{"x": index, "y": scale * index**2, "kind": "a|b"}], "more": [{"x": index}]}

    def grid(bench: Bench, settings: Settings) -> list[Cell]:
        bench.leave_out("what does not fit")
        scale = settings.scale
        return [Cell(f"cell {i}", partial(measure, i, scale)) for i in range(settings.num)]

    study = Study(
        number="open",
        name="counted",
        title="Squares",
        method="Scaled by {scale}, at {lengths}.",
        settings={"num": 3, "scale": 2.0, "lengths": (Length(64, 32),)},
        quick={"num": 1},
        grid=grid,
        tables=(Table("squares", "All of them.", "x y kind"), Table("more", columns=None), Table("sum")),
        plots=(
            Plot("drawn", "A line.", Panel("squares", "x", "y")),
            Plot("none", "", Points("absent", "x", "y")),
        ),
        finish=lambda bench, settings, rows: {"sum": [{"sum": sum(row["y"] for row in rows["squares"])}]},
        needs_model=False,
    )
    return study, measured


def run(study: Study, path: Path | None, **options: Any) -> Rows:
    return run_study(study, Bench(None, Options(**options)), Journal(path)).rows


def test_rows_come_in_the_order_of_the_cells() -> None:
    study, measured = counting()
    rows = run(study, None)
    assert measured == [0, 1, 2]
    assert [row["y"] for row in rows["squares"]] == [0, 2, 8]
    assert rows["sum"] == [{"sum": 10}]
    assert len(run(study, None, quick=True)["squares"]) == 1


def test_a_run_that_is_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "counted.jsonl"
    study, measured = counting(fails_at=2)
    with pytest.raises(KeyboardInterrupt):
        run(study, path)
    assert measured == [0, 1]
    study, measured = counting()
    rows = run(study, path)
    assert measured == [2]
    assert rows == run(counting()[0], None)


def test_a_line_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "counted.jsonl"
    run(counting()[0], path)
    path.write_text(path.read_text()[:-9])
    study, measured = counting()
    assert run(study, path) == run(counting()[0], None)
    assert measured == [2]
    study, measured = counting()
    run(study, path)
    assert measured == []


@pytest.mark.parametrize("options", [{"seed": 1}, {"quick": True}, {"judge": "other/judge"}])
def test_cells_of_other_settings_are_kept_aside(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "counted.jsonl"
    run(counting()[0], path)
    before = path.read_text()
    study, measured = counting()
    run(study, path, **options)
    assert measured
    assert (tmp_path / "counted.jsonl.old").read_text() == before


def test_settings_are_part_of_what_cells_belong_to(tmp_path: Path) -> None:
    path = tmp_path / "counted.jsonl"
    run(counting()[0], path)
    study, measured = counting()
    run_study(study, Bench(None), Journal(path), changes={"scale": 3.0})
    assert measured == [0, 1, 2]


def test_a_result_is_written_for_people_and_programs(tmp_path: Path) -> None:
    study, _ = counting()
    result = run_study(study, Bench(None, Options(seed=7)), Journal(None))
    paths = write_result(tmp_path / "new", result, "python -m studies counted")
    assert {path.name for path in paths} == {
        "counted.json", "counted.md", "squares.csv", "more.csv", "sum.csv", "drawn.png",
    }  # fmt: skip
    page = (tmp_path / "new" / "counted.md").read_text()
    assert "Scaled by 2, at 64/32." in page
    assert "| x | y | kind |" in page
    assert "| 2 | 8 | a\\|b |" in page
    assert "## More" not in page
    assert "- what does not fit" in page
    assert "- seed: 7" in page
    assert read_tables(tmp_path / "new" / "counted.json") == {"squares": result.rows["squares"], "sum": [{"sum": 10}]}
    assert (tmp_path / "new" / "squares.csv").read_text() == "x,y,kind\n0,0.0,a|b\n1,2.0,a|b\n2,8.0,a|b\n"


def test_results_of_before_are_read() -> None:
    results = ROOT / "benchmarks" / "results"
    paths = [*results.glob("h100/experiments/*/*.json"), *results.glob("h100/theorem/*/*.json")]
    paths += [
        results / "h100" / "twin" / "twin.json",
        results / "cost" / "finding_long_canvases" / "long_canvases.json",
    ]
    assert len(paths) >= 17
    for path in paths:
        tables = read_tables(path)
        assert tables, path
        assert all(rows and all(isinstance(row, dict) for row in rows) for rows in tables.values()), path


def test_shown() -> None:
    values = (None, 5e-4, 0.12345, 12.0, 1234.5, 2e9, 3, "text", (1, 2.5), float("nan"))
    wanted = ["-", "5e-4", "0.123", "12", "1234", "2e9", "3", "text", "1, 2.5", "nan"]
    assert [shown(value) for value in values] == [text.replace("5e-4", "0.0005") for text in wanted]


def test_pictures_of_odd_rows_are_drawn() -> None:
    rows = [
        {"x": x, "y_ppl_ratio": y, "kind": kind} for x, y, kind in ((1, 2.0, "a"), (2, None, "a"), (None, 1.0, "no"))
    ]
    panel = Panel("t", "x", "y_ppl_ratio", "kind", base="no", level=1.0, log="x")
    assert Plot("odd", "", panel).draw({"t": rows}) is not None
    assert Plot("odd", "", Points("t", "kind x", "y_ppl_ratio", log="x")).draw({"t": rows}) is not None
    assert Plot("odd", "", Panel("t", "x", "y_ppl_ratio")).draw({"t": []}) is None


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr("studies.progress.time.monotonic", own)
    return own


def test_progress_says_share_count_and_time_left(clock: Clock) -> None:
    file = io.StringIO()
    progress = Progress(Console(file=file, width=200))
    progress.start("counted", 4, 100.0)
    progress.finished(40.0, is_new=False)
    progress.within("second", 0.0, 20.0)
    clock.now += 60
    # Half of the second cell took a minute, and 50 of 100 are left.
    progress.within("second", 0.5, 20.0)
    assert progress.figures == "1 of 4 · 50% · 5 min left"
    progress.finished(20.0)
    clock.now += 7200
    progress.within("third", 0.0, 20.0)
    assert progress.figures == "2 of 4 · 60% · 4.0 h left"
    lines = file.getvalue().splitlines()
    assert lines[0] == "counted: 1 of 4 · 40% · time left unknown · second"
    assert len(lines) == 3


def test_lines_come_now_and_then(clock: Clock) -> None:
    file = io.StringIO()
    progress = Progress(Console(file=file, width=200))
    progress.start("counted", 100, 100.0)
    for _ in range(100):
        clock.now += 1
        progress.within("cell", 0.0, 1.0)
        progress.finished(1.0)
    assert len(file.getvalue().splitlines()) == 4


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Study], None]:
    def choose(study: Study) -> None:
        monkeypatch.setattr(command_line, "everything", lambda: (study,))

    return choose


Only = Callable[[Study], None]


def test_the_command_resumes_and_clears_up(only: Only, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["counted", "--set", "scale=3", "--set", "lengths=8,16/4", "--out", str(tmp_path)]
    study, _ = counting(fails_at=1)
    only(study)
    assert command_line.run(arguments) == 130
    partial = tmp_path / "open_counted.partial.jsonl"
    assert f"what was measured is in {partial}" in capsys.readouterr().err
    study, measured = counting()
    only(study)
    assert command_line.run(arguments) == 0
    assert measured == [1, 2]
    assert not partial.exists()
    written = json.loads((tmp_path / "open_counted" / "counted.json").read_text())
    assert written["facts"]["lengths"] == ["8/8", "16/4"]
    assert written["facts"]["scale"] == 3.0
    assert written["command"] == f"python -m studies {' '.join(arguments)}"
    out = capsys.readouterr()
    assert out.out.strip() == str(tmp_path / "open_counted" / "counted.md")
    assert "left out: what does not fit" in out.err


def test_the_list_names_every_study_and_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["list"]) == 0
    out = capsys.readouterr().out
    assert all(f" {study.name} " in out for study in command_line.everything())
    assert "thresholds=0.0005,0.005,0.05" in out
    assert len(command_line.find("all")) == 6
    assert [study.name for study in command_line.find("3")] == ["quality"]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["7"], "the study is '7'; use flops_table, "),
        (["1", "--set", "lengths=8x"], "--set lengths: a length is '8x'; write N_gen or N_gen/steps"),
        (["1", "--set", "lengths=8/9"], "it has more steps than tokens"),
        (["1", "--set", "num_prompts=many"], "--set num_prompts is 'many'; write it like 32"),
        (["1", "--set", "batch_sizes=1"], "1 has the settings lengths, thresholds, num_prompts"),
        (["1", "--set", "lengths"], "--set is 'lengths'; write FIELD=VALUE"),
        (["1", "--device", "abacus"], "device is 'abacus'; use cpu, cuda or cuda:N"),
        (["1", "--out", "/dev/null/x"], "--out /dev/null/x cannot be written"),
        (["1", "--prompts", "missing.jsonl", "--device", "cpu"], "missing.jsonl cannot be read"),
        (["1", "--prompts", "two.jsonl", "--device", "cpu"], "32 prompts are asked for and --prompts two.jsonl has 2"),
    ],
)
def test_mistakes(
    arguments: list[str],
    fragment: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.jsonl").write_text('{"turns": ["What is it?"]}\n{"prompt": "Where?"}\n')
    assert command_line.run(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert fragment in line


def test_studies_import_what_is_public_and_what_measures() -> None:
    """The rest of the package may change without a study noticing."""
    import ast

    allowed = {"llm", "params", "output", "config", "errors", "flops", "text", "measure", "results", "bench", "models"}
    # Divergences, measured by the code that decodes.
    exact = {"surelock.engine.noise_floor", "surelock.ops.step_kl"}
    seen = set()
    for path in sorted((ROOT / "studies").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("surelock."):
                seen.add(node.module)
                assert node.module in exact or node.module.split(".")[1] in allowed, f"{path.name}: {node.module}"
    assert exact <= seen
