"""`surelock calibrate` stores what `LockParams.calibrated` finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from surelock.cli.main import app
from surelock.measure.instrumented import InstrumentedDecoder
from surelock.params import LockParams
from surelock.results.calibration_file import fingerprint, places
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
    monkeypatch.setattr("surelock.measure.prompt_sets.text_canvases", lambda llm, num, **kwargs: ids[:num])
    monkeypatch.setattr("surelock.measure.calibration_run.threshold_grid", lambda **kwargs: [1e-3, 1e-2, 0.1, 1.0])
    return folder


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        app(["calibrate", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def own(folder: Path) -> Path:
    """The user's calibration of the model."""
    return places(folder, fingerprint(folder))[0]


# On random weights almost every posterior moves: only a lenient delta lets a threshold pass.
LENIENT = ("-n", "4", "--delta", "0.9", "--alpha", "0.2")


def test_the_rule_is_stored_and_found(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*LENIENT, "--min-visible-steps", "0", "--report", str(tmp_path / "report")) == 0
    rule = LockParams.calibrated(folder)
    assert rule.kl_threshold in (1e-2, 0.1, 1.0)
    assert (rule.min_visible_steps, rule.refresh) == (0, None)
    stored = json.loads(own(folder).read_text())
    assert stored["found"]["upper_bound"] <= 0.2
    assert stored["found"]["held_out_rate"] <= 0.2
    locked = stored["found"]["locked_run"]
    assert locked["sequences"] > 0
    assert locked["rate_low"] <= locked["rate"] <= locked["rate_high"]
    assert locked["violations"] / locked["sequences"] < locked["upper_bound"] <= 1
    assert stored["risk"]["calibration_sequences"] == 80
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "calibration.csv", "calibration.json", "calibration.md", "calibration.png", "calibration.svg"
    }  # fmt: skip
    printed = " ".join(capsys.readouterr().out.split())
    assert "promise without locks, risk at most 0.2 with confidence 0.95" in printed
    assert f"(95 %: {locked['rate_low']:.2%} to {locked['rate_high']:.2%})" in printed
    assert f"risk at most {locked['upper_bound']:.4f}" in printed


def test_json_and_a_file_of_ones_own(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "own.json"
    assert run(*LENIENT, "--json", "--generated-only", "--refresh", "3", "--out", str(out)) == 0
    printed = json.loads(capsys.readouterr().out)
    rule = LockParams.calibrated(folder, file=out)
    assert (printed["kl_threshold"], 3) == (rule.kl_threshold, rule.refresh)
    assert printed["risk"]["positions"] == "generated"
    assert not own(folder).exists()


def test_the_models_folder_is_not_written(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.iterdir())
    assert run(*LENIENT) == 0
    assert sorted(folder.iterdir()) == before
    assert own(folder).is_relative_to(tmp_path / "cache")
    assert LockParams.calibrated(folder).kl_threshold > 0


def test_a_quick_run_is_stored_only_where_it_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--quick", "--num-prompts", "120", *LENIENT[2:])
    assert run(*quick) == 0
    assert "stored in nothing: --quick stores with --out only" in " ".join(capsys.readouterr().out.split())
    assert not own(folder).exists()
    assert run(*quick, "--out", str(tmp_path / "quick.json")) == 0
    assert LockParams.calibrated(folder, file=tmp_path / "quick.json").kl_threshold > 0
    assert not own(folder).exists()


def test_a_calibration_is_replaced_only_by_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*LENIENT) == 0
    before = own(folder).read_bytes()
    capsys.readouterr()
    assert run(*LENIENT, "--generated-only") == 2
    assert "--force replaces it" in " ".join(capsys.readouterr().err.split())
    assert own(folder).read_bytes() == before
    assert run(*LENIENT, "--generated-only", "--force") == 0
    assert "will be replaced: it holds a threshold of" in " ".join(capsys.readouterr().err.split())
    assert own(folder).read_bytes() != before


def test_every_sequence_has_its_own_noise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: dict[tuple[int, ...], set[int]] = {}
    steps = InstrumentedDecoder.steps

    def watched(self: InstrumentedDecoder, canvases: Any, params: Any, **options: Any) -> Any:
        for canvas, seed in zip(canvases, options["seeds"], strict=True):
            seeds.setdefault(tuple(canvas), set()).add(seed)
        return steps(self, canvases, params, **options)

    monkeypatch.setattr(InstrumentedDecoder, "steps", watched)
    assert run(*LENIENT, "--temperature", "1", "--seed", "7") == 0
    # With locks again what it was without.
    assert sorted(seeds.values()) == [{7 + number} for number in range(NUM_PROMPTS)]


def test_nothing_is_stored_if_nothing_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-n", "4", "--delta", "0.0001") == 1
    assert "nothing was stored" in " ".join(capsys.readouterr().err.split())
    assert not own(folder).exists()


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
    own(folder).parent.mkdir(parents=True)
    own(folder).write_text("a letter")
    assert run(*LENIENT, "--force") == 2
    assert "not a calibration" in " ".join(capsys.readouterr().err.split())
    assert own(folder).read_text() == "a letter"


def test_other_commands_use_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from surelock.cli.options import LockOptions, ModelOptions

    options: dict[str, Any] = {"model": ModelOptions(model=str(folder))}
    assert run(*LENIENT) == 0
    assert LockOptions(calibrated=True).lock_params(**options) == LockParams.calibrated(folder)
