"""The stored calibration is used for the weights it was made for, and nothing else is lost or believed."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from surelock.errors import ParameterError
from surelock.params import LockParams
from surelock.results.calibration_file import FILE_NAME, check_replaceable, fingerprint, places, write_calibration

RULE = LockParams(kl_threshold=3e-5, confidence_percentile=20.0, min_visible_steps=2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 2000)
    return folder


def content(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"format": 1, "lock": asdict(RULE), "fingerprint": fingerprint(folder), "model": "m", **changes}


def test_the_rule_is_found_beside_the_model(folder: Path) -> None:
    write_calibration(folder / FILE_NAME, content(folder))
    assert LockParams.calibrated(folder) == RULE
    assert LockParams.calibrated(str(folder)) == RULE
    assert [path.name for path in folder.iterdir() if "partial" in path.name] == []


def test_the_embedded_model_has_its_own(folder: Path) -> None:
    assert LockParams.calibrated().kl_threshold > 0
    assert LockParams.calibrated() != LockParams()


def test_the_users_own_goes_before_what_came_with_the_model(folder: Path, tmp_path: Path) -> None:
    own, shipped = places(folder, fingerprint(folder))
    assert own.is_relative_to(tmp_path / "cache")
    assert shipped == folder / FILE_NAME
    write_calibration(shipped, content(folder, lock={"kl_threshold": 1e-4}))
    # A file from before there was a refresh, which the bound knows nothing of.
    assert LockParams.calibrated(folder) == LockParams.permanent(1e-4)
    write_calibration(own, content(folder))
    assert LockParams.calibrated(folder) == RULE
    elsewhere = tmp_path / "own.json"
    write_calibration(elsewhere, content(folder, lock={"kl_threshold": 1e-3}))
    assert LockParams.calibrated(folder, file=elsewhere) == LockParams.permanent(1e-3)


def test_every_field_of_the_rule_can_be_stored() -> None:
    assert asdict(RULE).keys() == {field.name for field in fields(LockParams)}


def test_a_missing_calibration_says_how_to_make_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"no calibration.*surelock calibrate --model") as caught:
        LockParams.calibrated(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(ParameterError, match=r"none\.json"):
        LockParams.calibrated(folder, file=tmp_path / "none.json")
    with pytest.raises(ParameterError, match="not a folder"):
        LockParams.calibrated("some/hub-id")


@pytest.mark.parametrize("where", [0, -1, 256_000])
def test_other_weights_are_noticed(folder: Path, where: int) -> None:
    write_calibration(folder / FILE_NAME, content(folder))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[where] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ParameterError, match="other weights"):
        LockParams.calibrated(folder)


def test_another_config_is_noticed(folder: Path) -> None:
    write_calibration(folder / FILE_NAME, content(folder))
    (folder / "config.json").write_text('{"rope_theta": 1}')
    with pytest.raises(ParameterError, match="other weights"):
        LockParams.calibrated(folder)


def test_a_folder_without_weights_is_no_model(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ParameterError, match=r"no \*\.safetensors"):
        LockParams.calibrated(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ParameterError, match="cannot be fingerprinted"):
        LockParams.calibrated(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\udcff", "not JSON"),
        ("[]", "not a calibration of format 1"),
        ('{"format": 2}', "not a calibration of format 1"),
        (" " * (1 << 20) + "{}", "larger than"),
    ],
)
def test_damaged_files_are_one_line(folder: Path, text: str, message: str) -> None:
    (folder / FILE_NAME).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ParameterError, match=message) as caught:
        LockParams.calibrated(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "lock",
    [
        None,
        [],
        {},
        {"kl_threshold": 1e-3, "command": "rm"},
        {"kl_threshold": "a"},
        {"kl_threshold": 1e-3, "gate_scope": 3},
    ],
)
def test_what_is_no_rule_is_refused(folder: Path, lock: object) -> None:
    (folder / FILE_NAME).write_text(json.dumps(content(folder, lock=lock)))
    with pytest.raises(ParameterError, match="lock"):
        LockParams.calibrated(folder)


def test_a_calibration_is_replaced_only_by_force(folder: Path) -> None:
    path = folder / FILE_NAME
    assert check_replaceable(path, force=False) is None
    risk = {"calibration_sequences": 240, "prompts": "tasks"}
    write_calibration(path, content(folder, risk=risk))
    holds = "a threshold of 3e-05 from 240 sequences of 'tasks'"
    with pytest.raises(ParameterError, match=rf"holds {holds}: --force replaces it, --out FILE keeps both"):
        write_calibration(path, content(folder, lock={"kl_threshold": 1e-3}))
    assert LockParams.calibrated(folder) == RULE
    assert check_replaceable(path, force=True) == holds
    write_calibration(path, content(folder, lock={"kl_threshold": 1e-3}), force=True)
    assert LockParams.calibrated(folder).kl_threshold == 1e-3
    # What it holds is anybody's.
    path.write_text(json.dumps({"format": 1, "lock": [], "risk": None}))
    assert check_replaceable(path, force=True) == "a threshold of None from None sequences of None"


def test_only_a_calibration_is_overwritten(folder: Path) -> None:
    path = folder / FILE_NAME
    path.write_text(json.dumps(content(folder, notes="mine")))
    with pytest.raises(ParameterError, match="notes"):
        write_calibration(path, content(folder), force=True)
    assert json.loads(path.read_text())["notes"] == "mine"
    path.write_text("a letter")
    with pytest.raises(ParameterError, match="not a calibration"):
        check_replaceable(path, force=True)


def test_a_failed_write_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / FILE_NAME
    write_calibration(path, content(folder))

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_calibration(path, content(folder, lock={"kl_threshold": 1e-3}), force=True)
    assert LockParams.calibrated(folder) == RULE
    assert [each.name for each in folder.iterdir() if "partial" in each.name] == []


def test_nothing_heavy_is_needed(folder: Path) -> None:
    import subprocess
    import sys

    write_calibration(folder / FILE_NAME, content(folder))
    code = (
        "import sys; from surelock.params import LockParams; "
        f"LockParams.calibrated({str(folder)!r}); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
