"""Each command once against the real library, so that the scripted `LLM` cannot drift away from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from surelock.cli.main import app
from tests.cli.conftest import assert_one_line_error

PROMPT = "Once upon a time"


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=stdin, catch_exceptions=False)


def test_generate(tmp_path: Path) -> None:
    trace, picture = tmp_path / "trace.jsonl", tmp_path / "map.svg"
    result = run("generate", PROMPT, "-n", "6", "--json", "--trace", str(trace), "--lock-map", str(picture))
    output = json.loads(result.stdout)
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [line["rows"] for line in lines] == output["stats"]["active_rows"]
    assert f"active ratio {output['stats']['active_ratio']:.3f}" in picture.read_text()
    assert run("generate", PROMPT, "-n", "6").stdout == output["text"] + "\n"


def test_chat() -> None:
    result = run("chat", "-n", "8", "--json", stdin="Hello\n")
    assert json.loads(result.stdout)["prompt_tokens"] > 1


def test_infill() -> None:
    text = run("infill", "--prefix", "def add(a, b):", "--suffix", " + b", "--gap", "4").stdout
    assert text.startswith("def add(a, b):")
    assert text.endswith(" + b\n")


def test_verify() -> None:
    result = run("verify", PROMPT, "-n", "6", "--noise-floor", "--json")
    report = json.loads(result.stdout)
    assert report["exact"] is True
    assert sorted(report["noise_floor"]) == ["max", "median", "p99"]
    assert result.exit_code == 0


def test_doctor() -> None:
    model = json.loads(run("doctor", "--json").stdout)["model"]
    # The tensors of the embedded model, of which its README counts 17.3 million weights.
    assert model["parameters"] == 17_308_032
    assert model["tokenizer"] is model["chat_template"] is True


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--max-tokens", "0"], "max_tokens is 0"),
        (["--max-tokens", "600"], "max_tokens"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_errors(arguments: list[str], fragment: str) -> None:
    assert_one_line_error(run("generate", PROMPT, *arguments), fragment)


# Runs the command, then says which modules it imported that it should have done without.
FRESH = """
import sys
from surelock.cli.main import app
try:
    app()
finally:
    print(sorted({"torch._dynamo", "sympy"} & sys.modules.keys()), file=sys.stderr)
"""


def test_a_run_does_without_torchs_compiler() -> None:
    """Importing it takes a second of every start."""
    command = [sys.executable, "-c", FRESH, "generate", PROMPT, "-n", "1"]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert ended.stderr == "[]\n"
