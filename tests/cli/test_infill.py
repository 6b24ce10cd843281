from __future__ import annotations

import json

import pytest

from tests.cli.conftest import FakeLibrary, Run, assert_one_line_error
from tests.cli.fake_llm import FakeLLM


@pytest.fixture(autouse=True)
def short_reply(library: FakeLibrary) -> None:
    library.settings["reply"] = " one two three four five"


def canvas_of(library: FakeLibrary) -> list[int | None]:
    ((prompt, params),) = library.calls
    assert params.max_tokens == 0
    canvas: list[int | None] = prompt["canvas_token_ids"]
    return canvas


def test_prefix_gap_suffix(run: Run, library: FakeLibrary) -> None:
    result = run("infill", "--prefix", "before", "--suffix", " after", "--gap", "2")
    assert result.stdout == "before one two after\n"
    assert result.stderr == ""


@pytest.mark.parametrize(("arguments", "length"), [(["--prefix", "x"], 16), (["--suffix", "x", "--gap", "3"], 3)])
def test_one_side_is_enough(run: Run, library: FakeLibrary, arguments: list[str], length: int) -> None:
    assert run("infill", *arguments).exit_code == 0
    assert canvas_of(library).count(None) == length


@pytest.mark.parametrize(
    ("arguments", "segments"),
    [
        (["--prefix", "A", "--gap", "3", "--suffix", "B", "--gap", "2", "--suffix", "C"], ["A", 3, "B", 2, "C"]),
        (["--gap=3", "--suffix=B", "--temperature", "0", "--gap", "2"], [3, "B", 2]),
        (["--prefix", "A", "--prefix", "--gap", "--gap", "2"], ["A", "--gap", 2]),
        (["--suffix", "C", "--gap", "2", "--gap", "1", "--prefix", "A"], ["C", 2, 1, "A"]),
        (["--prefix", "", "--gap", "2", "--suffix", "B", "--gap", "1"], [2, "B", 1]),
        (["--suffix", "C", "--gap", "2", "--prefix", "A"], ["A", 2, "C"]),
    ],
)
def test_repeated_options_make_the_document_in_their_order(
    run: Run, library: FakeLibrary, arguments: list[str], segments: list[str | int]
) -> None:
    assert run("infill", *arguments).exit_code == 0
    canvas = canvas_of(library)
    words = library.made[0].words
    expected: list[int | None] = []
    for segment in segments:
        expected += [None] * segment if isinstance(segment, int) else words.encode(segment)
    assert canvas == expected


def test_segments_in_order(run: Run, library: FakeLibrary) -> None:
    result = run("infill", "--segments", '["A", 2, " B", 3]', "--json")
    assert json.loads(result.stdout)["text"] == "A one two B three four five"
    llm = library.made[0]
    assert canvas_of(library) == [*llm.words.encode("A"), None, None, *llm.words.encode(" B"), None, None, None]


def test_segments_from_standard_input(run: Run, library: FakeLibrary) -> None:
    assert run("infill", "--segments", "-", stdin='["A", 1]\n').stdout == "A one\n"


def test_text_is_never_read_as_a_gap(run: Run, library: FakeLibrary) -> None:
    assert run("infill", "--segments", '["[[12]] ░ gap:3", 1]').exit_code == 0
    assert canvas_of(library).count(None) == 1


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ([], "nothing to fill: give --prefix or --suffix"),
        (["--gap", "3"], "nothing to fill"),
        (["--prefix", "x", "--gap", "0"], "--gap is 0; it must be at least 1"),
        (["--prefix", "\udcff"], "--prefix"),
        (["--prefix", "A", "--prefix", "B"], "is given twice without a gap: put --gap, such as --gap 8, where one is"),
        (["--prefix", "A", "--gap", "3", "--gap", "0"], "--gap is 0; it must be at least 1"),
        (["--prefix", "A", "--gap", "3", "--gap", "x"], "Invalid value for '--gap'"),
        (["--segments", "A 8 B"], "--segments is not JSON"),
        (["--segments", '{"A": 8}'], "must be a list"),
        (["--segments", '["A"]'], "has no gap"),
        (["--segments", "[]"], "has no gap"),
        (["--segments", '["A", 0]'], "item 2 is 0"),
        (["--segments", '["A", true]'], "item 2 is true"),
        (["--segments", '["A", 2.5]'], "item 2 is 2.5"),
        (["--segments", '["A", null]'], "item 2 is null"),
        (["--segments", '["A", 2]', "--prefix", "x"], "--segments stands alone"),
        (["--segments", "-"], "standard input is empty"),
    ],
)
def test_bad_segments(run: Run, library: FakeLibrary, arguments: list[str], fragment: str) -> None:
    assert_one_line_error(run("infill", *arguments, stdin=""), fragment)
    assert not library.made


def test_the_live_view_leaves_the_whole_document(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from surelock.cli import watch
    from tests.cli.test_canvas_view import on_screen, terminal

    output = terminal()
    monkeypatch.setattr(watch, "standard_output", lambda: output)
    run("infill", "--segments", '["A", 2, " B", 3]')
    assert on_screen(output) == "A one two B three four five"


def test_fake_infill_keeps_gaps() -> None:
    assert FakeLLM(reply=" x").infill(["A", 1]).gaps[0].start == 1
