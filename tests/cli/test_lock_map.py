from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from surelock.cli.lock_map import ACTIVE, LOCKED, MASKED, REFRESHED, LockMapRecorder, draw_lock_map, states_before
from surelock.output import StepUpdate
from surelock.params import SamplingParams
from tests.cli.conftest import FakeLibrary, Run, assert_one_line_error
from tests.cli.fake_llm import FakeLLM

PNG = b"\x89PNG"


def updates_of(max_tokens: int, **settings: object) -> list[StepUpdate]:
    return list(FakeLLM().stream("one two three", SamplingParams(max_tokens=max_tokens)))


def test_area_not_locked_is_the_active_ratio() -> None:
    updates = updates_of(24)
    rows = [states_before(update) for update in updates]
    for update, row in zip(updates, rows, strict=True):
        assert len(row) - row.count(LOCKED) == update.active_rows
    output = updates[-1].output
    assert output is not None
    computed = sum(len(row) - row.count(LOCKED) for row in rows)
    assert computed / sum(map(len, rows)) == pytest.approx(output.stats.active_ratio)


def test_states_are_those_at_the_start_of_the_step() -> None:
    first, *_, last = [states_before(update) for update in updates_of(8)]
    assert first == bytes([ACTIVE] * 3 + [MASKED] * 8)
    assert last.count(MASKED) == 1
    assert last.count(LOCKED) > 0


def test_a_refresh_is_shown_as_computed() -> None:
    *_, last = updates_of(8)
    before = states_before(last)
    refreshed = states_before(replace(last, active_rows=len(last.locked)))
    assert refreshed == before.replace(bytes([LOCKED]), bytes([REFRESHED]))
    figure = draw_lock_map([before, refreshed], num_prompt=0)
    spared = before.count(LOCKED) / (2 * len(before))
    assert f"active ratio {1 - spared:.3f}: locking spared {spared:.1%}" in figure.get_suptitle()


@pytest.mark.parametrize(("suffix", "head"), [(".png", PNG), (".svg", b"<?xml")])
def test_picture_of_one_prompt(run: Run, tmp_path: Path, suffix: str, head: bytes) -> None:
    path = tmp_path / f"map{suffix}"
    assert run("generate", "one two", "-n", "8", "--lock-map", str(path)).exit_code == 0
    assert path.read_bytes().startswith(head)
    assert [path.name for path in tmp_path.iterdir()] == [f"map{suffix}"]


def test_svg_shows_ratio_axes_and_border(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "map.svg"
    run("generate", "one two", "-n", "8", "--lock-map", str(path))
    text = path.read_text()
    for label in (
        "active ratio 0.",
        "canvas position",
        "denoising step",
        "prompt",
        "generated",
        "locked, not computed",
    ):
        assert label in text, label


def test_several_prompts_give_numbered_pictures(run: Run, tmp_path: Path) -> None:
    assert run("generate", "a", "b", "-n", "4", "--lock-map", str(tmp_path / "out.png")).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-0.png", "out-1.png"]


def test_same_run_same_bytes(run: Run, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        run("generate", "one two", "-n", "4", "--lock-map", str(tmp_path / name))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_canvas_without_a_border_or_locks_is_drawn() -> None:
    figure = draw_lock_map([bytes([MASKED] * 4)], num_prompt=0)
    assert "no position locked" in figure.get_suptitle()


def test_other_suffixes_are_refused(run: Run, library: FakeLibrary, tmp_path: Path) -> None:
    result = run("generate", "x", "--lock-map", str(tmp_path / "out.pdf"))
    assert_one_line_error(result, "ends in '.pdf'; it must end in .png or .svg")
    assert not library.made


def test_missing_matplotlib_names_the_extra(
    run: Run, library: FakeLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_one_line_error(run("generate", "x", "--lock-map", str(tmp_path / "o.png")), "pip install 'surelock[plots]'")
    assert not library.made


def test_an_aborted_run_draws_nothing(run: Run, library: FakeLibrary, tmp_path: Path) -> None:
    library.settings |= {"error": KeyboardInterrupt(), "error_at_step": 2}
    assert run("generate", "x", "--lock-map", str(tmp_path / "out.png")).exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_failed_drawing_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    recorder = LockMapRecorder(path)
    for update in updates_of(4):
        recorder.update(update)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("surelock.results.figures.image", fail)
    with pytest.raises(OSError, match="No space left"):
        recorder.save()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
