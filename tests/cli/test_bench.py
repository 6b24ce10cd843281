"""`surelock bench` end to end on the tiny shape."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from surelock.bench import ops, steps
from surelock.bench.roofline import Limits
from surelock.cli.main import app
from tests.cli.conftest import Run, assert_one_line_error

COMMANDS = ["latency", "throughput", "steps", "ops"]


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rates take half a second to measure, which tests/bench does."""
    for module in (ops, steps):
        monkeypatch.setattr(module, "measure_limits", lambda device, dtype: Limits(5e10, 1e10))


@pytest.mark.parametrize("command", COMMANDS)
def test_files_json_and_plots(command: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURELOCK_COMMIT", "abc")
    folder = tmp_path / "new" / "results"
    result = run("bench", command, "--shape", "tiny", "--quick", "--json", "--out", str(folder))
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    written = json.loads((folder / f"{command}.json").read_text())
    assert written == printed
    assert written["benchmark"] == command
    assert {"command", "environment", "method", "model", "rows", "details"} <= written.keys()
    environment = written["environment"]
    assert environment["commit"] == "abc"
    assert {
        "processor",
        "num_cpus",
        "num_threads",
        "gpu",
        "python",
        "torch",
        "triton",
        "surelock",
    } <= environment.keys()
    rows = list(csv.DictReader((folder / f"{command}.csv").read_text().splitlines()))
    assert len(rows) == len(written["rows"])
    assert list(rows[0]) == list(written["rows"][0])
    assert (folder / f"{command}.png").read_bytes().startswith(b"\x89PNG")
    svg = (folder / f"{command}.svg").read_text()
    assert "<svg" in svg
    assert f"{command}: tiny" in svg
    assert sorted(path.name for path in folder.iterdir()) == [f"{command}.{s}" for s in ("csv", "json", "png", "svg")]


@pytest.mark.parametrize("command", COMMANDS)
def test_table(command: str, run: Run) -> None:
    result = run("bench", command, "--shape", "tiny", "--quick")
    assert result.exit_code == 0
    assert "model: tiny" in result.stdout
    assert result.stderr == ""
    if command in ("latency", "throughput"):
        assert "lock: scripted, schedule default" in result.stdout
    if command == "steps":
        assert "locking cannot pay" in result.stdout


def test_schedule_and_no_plots(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", _without_matplotlib)
    arguments = ("bench", "latency", "--shape", "tiny", "--quick", "--schedule", "paper", "--out", str(tmp_path))
    assert_one_line_error(run(*arguments), "pip install 'surelock[plots]'")
    assert list(tmp_path.iterdir()) == []
    assert run(*arguments, "--no-plots").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latency.csv", "latency.json"]
    assert "Figure 2" in json.loads((tmp_path / "latency.json").read_text())["lock"]


def test_the_embedded_model_with_real_locks() -> None:
    result = CliRunner().invoke(
        app, ["bench", "latency", "--quick", "--device", "cpu", "--json"], catch_exceptions=False
    )
    printed = json.loads(result.stdout)
    assert printed["weights"] == "trained"
    assert printed["lock"].startswith("LockParams(kl_threshold=0.0005")
    assert printed["rows"][0]["active_ratio"] < 1


def _without_matplotlib(name: str, *arguments: Any) -> object:
    return None if name == "matplotlib" else object()


def test_poisson_arrivals(run: Run) -> None:
    result = run("bench", "throughput", "--shape", "tiny", "--quick", "--rate", "500", "--json")
    assert json.loads(result.stdout)["requests_per_s_offered"] == 500


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("latency", "--shape", "none"), "--shape is 'none'; use one of llada-8b, tiny"),
        (("latency", "--shape", "llada-8b", "--device", "cpu"), "needs a CUDA device"),
        (("latency", "--shape", "tiny", "--settings", "8-256"), "write REQUESTSxTOKENS"),
        (("latency", "--shape", "tiny", "--settings", "1x1024"), "the model's limit is 512"),
        (("latency", "--shape", "tiny", "--model", "x"), "--model contradicts --shape"),
        (("latency", "--shape", "tiny", "--paper"), "--paper has no effect with --shape"),
        (("latency", "--shape", "tiny", "--kl-threshold", "1e-3"), "--kl-threshold has no effect with --shape"),
        (("latency", "--no-lock"), "--no-lock contradicts bench latency"),
        (("latency", "--schedule", "paper"), "--schedule has no effect on a model with trained weights"),
        (("latency", "--shape", "tiny", "--device", "gpu"), "device is 'gpu'; use cpu, cuda or cuda:N"),
        (("latency", "--shape", "tiny", "--baseline", "vllm", "."), "use one of official, fast-dllm, dinfer"),
        (("throughput", "--shape", "tiny", "--rate", "-1"), "--rate is -1"),
        (("throughput", "--shape", "tiny", "--rate", "nan"), "--rate is nan"),
        (("throughput", "--shape", "tiny", "--tokens", "8,x"), "--tokens is '8,x'"),
        (("throughput", "--shape", "tiny", "--prompt-tokens", "9-3"), "--prompt-tokens is '9-3'"),
        (("throughput", "--shape", "tiny", "--batch-size", "0"), "--batch-size is 0"),
        (("steps", "--shape", "tiny", "--requests", ""), "--requests is ''"),
        (("steps", "--shape", "tiny", "--positions", "10000"), "the model's limit is 512"),
        (("ops", "--shape", "tiny", "--rows", "0"), "--rows is '0'"),
        (("ops", "--shape", "tiny", "--out", "/proc/none"), "--out /proc/none cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_options(run: Run, arguments: tuple[str, ...], fragment: str) -> None:
    assert_one_line_error(run("bench", *arguments), fragment)
