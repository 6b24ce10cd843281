"""`surelock eval theorem` writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from surelock.cli.main import app
from tests.tiny import tiny_model


class TinyLLM:
    """What the command reads of an LLM."""

    def __init__(self) -> None:
        self.transformer = tiny_model()
        self.config = self.transformer.config
        self.device, self.dtype = self.transformer.device, self.transformer.dtype
        self.name, self.commit = "tiny", None


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surelock.cli.eval_theorem.load_llm", lambda options: TinyLLM())
    canvases = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]
    monkeypatch.setattr("surelock.eval.prompt_sets.text_canvases", lambda *args, **kwargs: canvases)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        app(["eval", "theorem", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.usefixtures("tiny")
def test_files_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-n", "8", "--kl-threshold", "0.2", "--out", str(tmp_path / "found")) == 0
    written = {path.name for path in (tmp_path / "found").iterdir()}
    assert written == {
        "theorem.json", "theorem.md", "theorem.csv", "theorem_age.csv", "theorem_uncertainty.csv", "theorem.png",
        "theorem.svg",
    }  # fmt: skip
    content = json.loads((tmp_path / "found" / "theorem.json").read_text())
    assert content["model"] == "tiny"
    assert content["environment"]["python"]
    assert content["rules"][0]["kl_threshold"] == 0.2
    assert "A1 holds" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_json_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-n", "6", "--json") == 0
    assert json.loads(capsys.readouterr().out)["max_tokens"] == 6


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-lock"], "--no-lock contradicts eval theorem"),
        (["--delta", "0"], "--delta is 0"),
        (["--thresholds", "a,b"], "--thresholds is 'a,b'"),
        (["-n", "200"], "limit is 96"),
        (["--tasks", "--prompts", "x.txt"], "--tasks contradicts --prompts"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
