from __future__ import annotations

import json
from pathlib import Path

import pytest

from surelock.errors import NonFiniteLogitsError
from surelock.results.calibration_file import FILE_NAME, fingerprint, write_calibration
from tests.cli.conftest import FakeLibrary, Run, assert_one_line_error
from tests.cli.fake_llm import STORY, FakeLLM


def test_stdout_off_a_terminal_is_the_text_alone(run: Run) -> None:
    result = run("generate", "Tell me:", "-n", "64")
    assert result.stdout == STORY + "\n"
    assert result.stderr == ""
    assert result.exit_code == 0


def test_the_commit_of_a_hub_model_is_printed_and_of_others_not(run: Run, tmp_path: Path) -> None:
    hub = run("generate", "hello", "--model", "organisation/name")
    assert f"at revision {'0' * 40}" in hub.stderr
    assert "revision" not in run("generate", "hello").stderr
    assert "revision" not in run("generate", "hello", "--model", str(tmp_path)).stderr


def test_json_prints_one_object_per_prompt_in_order_and_nothing_else(run: Run) -> None:
    result = run("generate", "a", "b c d", "-n", "4", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["prompt_tokens"] for row in rows] == [1, 3]
    expected = ["text", "token_ids", "finish_reason", "prompt_tokens", "generation_tokens", "gaps", "notes", "stats"]
    assert list(rows[0]) == expected
    assert result.stderr == ""


def test_early_finishers_wait_for_those_before_them(run: Run, library: FakeLibrary, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"canvas_token_ids": [3, null, null, null]}\n{"canvas_token_ids": [3, null]}\n')
    result = run("generate", "-f", str(file), "-n", "0", "--json", "--trace", str(tmp_path / "watched.jsonl"))
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["stats"]["steps"] for row in rows] == [3, 1]


def test_standard_input(run: Run, library: FakeLibrary) -> None:
    assert run("generate", "-", "-n", "2", stdin="two\nlines\r\n").exit_code == 0
    assert library.calls[0][0] == "two\nlines"


@pytest.mark.parametrize(
    ("stdin", "fragment"), [("", "standard input is empty"), ("\n", "is empty"), (b"\xff", "byte 0xff at offset 0")]
)
def test_bad_standard_input(run: Run, stdin: str | bytes, fragment: str) -> None:
    assert_one_line_error(run("generate", "-", stdin=stdin), fragment)


def test_chat_wraps_each_prompt_as_one_turn(run: Run, library: FakeLibrary) -> None:
    assert run("generate", "--chat", "Hi there", "-n", "2").exit_code == 0
    llm = library.made[0]
    assert library.calls[0][0] == {"prompt_token_ids": llm.encode_chat([{"role": "user", "content": "Hi there"}])}


def test_chat_refuses_token_ids(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt_token_ids": [3]}\n')
    assert_one_line_error(run("generate", "--chat", "-f", str(file)), "prompt 2 gives prompt_token_ids")


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["x", "--max-tokens", "0"], "max_tokens is 0"),
        (["x", "--max-tokens", "600"], "too long"),
        (["x", "--model", "missing"], "neither a folder nor a hub repository"),
    ],
)
def test_errors_of_the_library(run: Run, arguments: list[str], fragment: str) -> None:
    assert_one_line_error(run("generate", *arguments), fragment)


def test_without_a_tokenizer_plain_output_is_token_ids(run: Run, library: FakeLibrary, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt_token_ids": [3]}\n')
    library.settings["hides_tokenizer"] = True
    result = run("generate", "-f", str(file), "-n", "3")
    assert result.stdout == "3 4 5\n"


def test_results_before_a_failure_are_printed(run: Run, library: FakeLibrary) -> None:
    done = FakeLLM().generate(["a", "b"])
    library.settings["error"] = NonFiniteLogitsError("prompt 2 has NaN logits", done)
    result = run("generate", "a", "b", "--json")
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == "error: prompt 2 has NaN logits\n"
    assert result.exit_code == 1


def test_notes_go_to_stderr(run: Run, library: FakeLibrary) -> None:
    library.settings["notes"] = ("steps raised from 1 to 2",)
    result = run("generate", "a", "b", "-n", "2")
    assert result.stderr == "note: steps raised from 1 to 2\n"
    assert run("generate", "a", "-n", "2", "--json").stderr == ""


@pytest.mark.parametrize("option", ["--trace", "--lock-map"])
@pytest.mark.parametrize(
    ("name", "fragment"),
    [("missing/out.png", "does not exist; create it first"), ("folder.png", "is not a regular file")],
)
def test_outputs_that_cannot_be_written_stop_before_the_model_is_loaded(
    run: Run, library: FakeLibrary, tmp_path: Path, option: str, name: str, fragment: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    assert_one_line_error(run("generate", "x", option, str(tmp_path / name)), fragment)
    assert not library.made
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_one_path_cannot_serve_twice(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n')
    assert_one_line_error(run("generate", "-f", str(file), "--trace", str(file)), "--file and --trace both name")
    assert file.read_text() == '{"prompt": "a"}\n'


@pytest.fixture
def calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What looks like a model, calibrated for 64 tokens."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    _calibrate(folder, {"max_tokens": 64, "steps": None, "block_length": None, "temperature": 0.0})
    return folder


def _calibrate(folder: Path, decoding: object) -> None:
    lock = {"kl_threshold": 1e-3}
    content = {"format": 1, "lock": lock, "fingerprint": fingerprint(folder), "decoding": decoding}
    write_calibration(folder / FILE_NAME, content, force=True)


@pytest.mark.parametrize(
    ("options", "theirs", "ours"),
    [
        (["-n", "16"], "max_tokens 64", "max_tokens 16"),
        (["-n", "64", "--steps", "32"], "steps None", "steps 32"),
        (["-n", "64", "--block-length", "16"], "block_length None", "block_length 16"),
        (["-n", "32", "--temperature", "1"], "max_tokens 64, temperature 0.0", "max_tokens 32, temperature 1.0"),
    ],
)
def test_another_way_of_decoding_than_the_calibrations_is_noted(
    run: Run, calibrated: Path, library: FakeLibrary, options: list[str], theirs: str, ours: str
) -> None:
    other = run("generate", "hello", "--model", str(calibrated), "--calibrated", *options)
    assert other.exit_code == 0
    assert other.stderr == (
        f"note: the calibration was made with {theirs}, and this run has {ours}: the risk it bounds may be another\n"
    )
    assert library.calls[0][1].lock.kl_threshold == 1e-3


@pytest.mark.parametrize("options", [[], ["--steps", "64"], ["--block-length", "64"]])
def test_the_calibrations_own_way_of_decoding_needs_no_note(run: Run, calibrated: Path, options: list[str]) -> None:
    assert run("generate", "hello", "--model", str(calibrated), "--calibrated", "-n", "64", *options).stderr == ""
    assert run("generate", "hello", "--model", str(calibrated), "-n", "16").stderr == ""


@pytest.mark.parametrize("decoding", [None, {}, {"max_tokens": "64"}, {"max_tokens": True}, [64]])
def test_a_calibration_that_tells_no_length_is_not_believed(run: Run, calibrated: Path, decoding: object) -> None:
    _calibrate(calibrated, decoding)
    result = run("generate", "hello", "--model", str(calibrated), "--calibrated", "-n", "16")
    assert (result.exit_code, result.stderr) == (0, "")
