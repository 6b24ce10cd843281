"""`surelock calibrate` stores what `LockParams.calibrated` finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from surelock.calibration_file import FILE_NAME
from surelock.cli.main import app
from surelock.params import LockParams
from tests.tiny import MASK, tiny_model

NUM_PROMPTS = 120


class TinyLLM:
    """What the command reads of an LLM: a tiny model in a folder."""

    def __init__(self, folder: Path) -> None:
        self.transformer = tiny_model()
        self.config = self.transformer.config
        self.device, self.dtype = self.transformer.device, self.transformer.dtype
        self.name, self.commit, self.folder = "tiny", None, folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("surelock.cli.calibrate.load_llm", lambda options: TinyLLM(folder))
    ids = torch.randint(0, MASK, (NUM_PROMPTS, 5), generator=torch.Generator().manual_seed(0)).tolist()
    monkeypatch.setattr("surelock.eval.prompt_sets.text_canvases", lambda llm, num, **kwargs: ids[:num])
    monkeypatch.setattr("surelock.eval.calibration_run.threshold_grid", lambda **kwargs: [1e-3, 1e-2, 0.1, 1.0])
    return folder


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        app(["calibrate", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


# On random weights almost every posterior moves: only a lenient delta lets a threshold pass.
LENIENT = ("-n", "4", "--delta", "0.9", "--alpha", "0.2")


def test_the_rule_is_stored_and_found(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*LENIENT, "--min-visible-steps", "0", "--report", str(tmp_path / "report")) == 0
    rule = LockParams.calibrated(folder)
    assert rule.kl_threshold in (1e-2, 0.1, 1.0)
    assert rule.min_visible_steps == 0
    stored = json.loads((folder / FILE_NAME).read_text())
    assert stored["found"]["upper_bound"] <= 0.2
    assert stored["found"]["held_out_rate"] <= 0.2
    assert stored["found"]["locked_run"]["sequences"] > 0
    assert stored["risk"]["calibration_sequences"] == 80
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "calibration.csv", "calibration.json", "calibration.md", "calibration.png", "calibration.svg"
    }  # fmt: skip
    assert "risk at most" in capsys.readouterr().out


def test_json_and_a_file_of_ones_own(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "own.json"
    assert run(*LENIENT, "--json", "--generated-only", "--out", str(out)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["kl_threshold"] == LockParams.calibrated(folder, file=out).kl_threshold
    assert printed["risk"]["positions"] == "generated"
    assert not (folder / FILE_NAME).exists()


def test_a_read_only_folder_sends_it_to_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("surelock.cli.calibrate.os.access", lambda path, mode: path != folder)
    assert run(*LENIENT) == 0
    assert "read-only" in capsys.readouterr().err
    assert not (folder / FILE_NAME).exists()
    assert LockParams.calibrated(folder).kl_threshold > 0
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1


def test_nothing_is_stored_if_nothing_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-n", "4", "--delta", "0.0001") == 1
    assert "nothing was stored" in " ".join(capsys.readouterr().err.split())
    assert not (folder / FILE_NAME).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kl-threshold", "1e-3"], "--kl-threshold contradicts calibrate"),
        (["--no-lock"], "--no-lock contradicts calibrate"),
        (["--calibrated"], "--calibrated contradicts calibrate"),
        (["--delta", "1"], "delta is 1"),
        (["--alpha", "0"], "alpha is 0"),
        (["--confidence", "nan"], "confidence is nan"),
        (["-n", "4", "--num-prompts", "80"], "takes 120"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_file_that_is_not_a_calibration_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / FILE_NAME).write_text("a letter")
    assert run(*LENIENT) == 2
    assert "not a calibration" in " ".join(capsys.readouterr().err.split())
    assert (folder / FILE_NAME).read_text() == "a letter"


def test_other_commands_use_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from surelock.cli.options import LockOptions, ModelOptions

    options: dict[str, Any] = {"model": ModelOptions(model=str(folder))}
    assert run(*LENIENT) == 0
    assert LockOptions(calibrated=True).lock_params(**options) == LockParams.calibrated(folder)
