from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from surelock.cli import doctor as doctor_module
from surelock.cli.doctor import examine
from surelock.cli.options import ModelOptions
from surelock.models.hub import EMBEDDED_FOLDER, ModelFiles
from surelock.models.packed_weights import PACKED_FILE
from tests.checkpoints import write_checkpoint, write_sparse_checkpoint
from tests.cli.conftest import Run

GIB = 1 << 30


def test_healthy_installation(run: Run) -> None:
    result = run("doctor")
    for part in ("surelock", "python", "torch", "kernels", "threads", "GiB", "surelock-demo", "chat template", "plots"):
        assert part in result.stdout, part
    assert result.stdout.endswith("no problem found\n")
    assert result.exit_code == 0


def test_json(run: Run) -> None:
    result = run("doctor", "--json")
    report = json.loads(result.stdout)
    assert list(report) == ["system", "device", "memory", "model", "model_memory", "extras", "problems"]
    assert report["model"]["parameters"] == 17_308_032
    assert report["model"]["disk_bytes"] == (EMBEDDED_FOLDER / PACKED_FILE).stat().st_size
    assert report["model"]["dtype"] in report["model_memory"]
    assert report["model"]["context"] == 512
    assert report["extras"]["plots"] is True
    assert report["problems"] == []
    assert result.stderr == ""


def test_free_memory_is_what_an_engine_counts_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surelock.engine.free_memory._free_host_bytes", lambda root: 3 << 30)
    assert doctor_module._memory()["free_gib"] == 3.0


def test_what_a_large_model_needs_is_known_without_loading_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "mlp_hidden_size": 12288}
    folder = write_sparse_checkpoint(
        tmp_path / "large", dtype="BF16", embedding_size=126464, vocab_size=126464, max_sequence_length=4096, **sizes
    )
    monkeypatch.setattr("surelock.models.weights.Weights.load", None)
    monkeypatch.setattr("surelock.engine.loading.free_bytes", lambda device: 20 * GIB)
    result = run("doctor", "-m", str(folder), "--device", "cpu", "--json")
    report = json.loads(result.stdout)
    assert report["model"] | {"disk_bytes": 0} == {
        "name": "large", "commit": None, "family": "llada", "parameters": 8_015_581_184, "stored_dtype": "bfloat16",
        "disk_bytes": 0, "context": 4096, "tokenizer": False, "chat_template": False, "dtype": "bfloat16",
        "device": "cpu",
    }  # fmt: skip
    assert report["model"]["disk_bytes"] == (folder / "model.safetensors").stat().st_size > 16_000_000_000
    needs = report["model_memory"]
    assert list(needs) == ["float32", "bfloat16"]
    # Keys and values of 32 layers, 4096 numbers each.
    assert needs["float32"]["kv_bytes_per_position"] == 2 * 32 * 4096 * 4
    assert needs["bfloat16"]["weights_bytes"] == 2 * 8_015_581_184
    assert needs["bfloat16"]["kv_bytes_per_canvas"] == 2 * GIB
    assert "cpu" in needs["bfloat16"]["fits_on"]
    assert "cpu" not in needs["float32"]["fits_on"]
    text = run("doctor", "-m", str(folder), "--device", "cpu", "--dtype", "float32").stdout
    assert "14.9 GiB of weights, fits on cpu" in text
    assert "512.0 KiB a position, 2.0 GiB a canvas" in text
    assert "problem: large needs 29.9 GiB in float32, 20.0 GiB are free on cpu: --dtype bfloat16 needs 14.9 GiB" in text


def test_weights_of_the_hub_need_not_be_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "snapshot")
    (folder / "model.safetensors").unlink()
    asked: list[object] = []

    def resolve(model: object, *, with_weights: bool, **options: object) -> ModelFiles:
        asked.append(with_weights)
        return ModelFiles(folder, "org/name", "0" * 40)

    monkeypatch.setattr("surelock.models.hub.resolve_model", resolve)
    assert re.search(r"^ +disk +not downloaded$", run("doctor", "-m", "org/name").stdout, re.MULTILINE)
    assert asked == [False]


def test_damaged_weights_are_a_problem(run: Run, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "model.safetensors").write_bytes(b"")
    assert "model.safetensors is not a sound safetensors file" in run("doctor", "-m", str(folder)).stdout


def test_a_model_that_cannot_be_used_is_a_problem_with_a_fix(run: Run) -> None:
    result = run("doctor", "-m", "missing")
    assert "problem: the model cannot be used: missing is not complete in the hub cache" in result.stdout
    assert "fix: check --model" in result.stdout
    assert "torch" in result.stdout
    assert result.exit_code == 1
    problems = json.loads(run("doctor", "-m", "missing", "--json").stdout)["problems"]
    assert [sorted(problem) for problem in problems] == [["fix", "problem"]]


def test_no_tokenizer_is_a_problem(run: Run, tmp_path: Path) -> None:
    result = run("doctor", "-m", str(write_checkpoint(tmp_path / "mute")))
    assert "mute has no tokenizer" in result.stdout
    assert result.exit_code == 1


def test_ops_of_a_cuda_device_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast, expected in (
        (True, "triton for add_norm, rope_store, row_attention, step_kl, swiglu, take_top, token_stats;"),
        (False, "reference"),
    ):
        monkeypatch.setattr("surelock.ops.dispatch.is_fast", lambda device, fast=fast: fast)
        assert doctor_module._kernels(has_cuda=True).startswith(expected)
    assert doctor_module._kernels(has_cuda=False).startswith("reference")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (None, "no units for bfloat16"),
        ("amx_bf16", "bfloat16 is faster (amx_bf16): --dtype bfloat16"),
        ("avx512_bf16", "bfloat16 (avx512_bf16) may be slower"),
    ],
)
def test_dtype_for_this_cpu(run: Run, monkeypatch: pytest.MonkeyPatch, unit: str | None, expected: str) -> None:
    monkeypatch.setattr("surelock.engine.host_cpu.bfloat16_unit", lambda: unit)
    assert expected in json.loads(run("doctor", "--json").stdout)["device"]["cpu_dtype"]


def test_more_threads_than_cpus_is_a_problem(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr("surelock.engine.host_cpu.num_usable_cpus", lambda: 1.5)
    result = run("doctor")
    assert "problem: torch runs 4 threads on 1.5 CPUs" in result.stdout
    assert "fix: pass --threads 2, or set OMP_NUM_THREADS=2" in result.stdout
    assert result.exit_code == 1
    monkeypatch.setattr("surelock.engine.host_cpu.num_usable_cpus", lambda: 4)
    assert run("doctor").exit_code == 0


def test_old_torch_is_a_problem(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "MIN_TORCH", (99, 0))
    assert "pip install 'torch>=99.0'" in run("doctor").stdout


@pytest.mark.parametrize("error", [ImportError("No module named 'transformers'"), OSError("libcudart.so.13")])
def test_a_damaged_installation_is_a_problem(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("surelock.models.hub.resolve_model", fail)
    diagnosis = examine(ModelOptions())
    assert [problem.problem for problem in diagnosis.problems] == [f"a library cannot be imported: {error}"]
