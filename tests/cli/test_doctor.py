from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from surelock.bench.shapes import LLADA_8B
from surelock.cli import doctor as doctor_module
from surelock.cli.doctor import count_parameters, examine
from tests.cli.conftest import FakeLibrary, Run
from tests.cli.fake_llm import CONFIG


def test_healthy_installation(run: Run) -> None:
    result = run("doctor")
    for part in ("surelock", "python", "torch", "kernels", "threads", "GiB", "embedded", "chat template", "plots"):
        assert part in result.stdout, part
    assert result.stdout.endswith("no problem found\n")
    assert result.exit_code == 0


def test_json(run: Run) -> None:
    result = run("doctor", "--json")
    report = json.loads(result.stdout)
    assert list(report) == ["system", "device", "memory", "model", "extras", "problems"]
    assert report["model"]["parameters"] == count_parameters(CONFIG)
    assert report["model"]["context"] == 512
    assert report["extras"]["plots"] is True
    assert report["problems"] == []
    assert result.stderr == ""


def test_free_memory_is_what_an_engine_counts_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surelock.engine.free_memory._free_host_bytes", lambda root: 3 << 30)
    assert doctor_module._memory()["free_gib"] == 3.0


def test_a_model_that_cannot_be_loaded_is_a_problem_with_a_fix(run: Run) -> None:
    result = run("doctor", "-m", "missing")
    assert "problem: the model cannot be loaded: model 'missing'" in result.stdout
    assert "fix: check --model" in result.stdout
    assert "torch" in result.stdout
    assert result.exit_code == 1
    problems = json.loads(run("doctor", "-m", "missing", "--json").stdout)["problems"]
    assert [sorted(problem) for problem in problems] == [["fix", "problem"]]


def test_no_tokenizer_is_a_problem(run: Run, library: FakeLibrary) -> None:
    library.settings["hides_tokenizer"] = True
    result = run("doctor")
    assert "embedded has no tokenizer" in result.stdout
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
def test_a_damaged_installation_is_a_problem(error: Exception) -> None:
    def load() -> None:
        raise error

    diagnosis = examine(load)  # type: ignore[arg-type]
    assert [problem.problem for problem in diagnosis.problems] == [f"a library cannot be imported: {error}"]


def test_parameters_of_llada_8b() -> None:
    # GSAI-ML/LLaDA-8B-Base, total_size of its index / 2 bytes.
    assert count_parameters(LLADA_8B) == 8_015_581_184


def test_parameters_of_grouped_tied_biased_layers() -> None:
    config = replace(CONFIG, num_heads=4, num_kv_heads=2, head_dim=2, tie_embeddings=True, bias=True, qk_norm=True)
    hidden, inner, query, kv = 8, 16, 8, 4
    weights = hidden * (query + 2 * kv) + query * hidden + 3 * hidden * inner
    biases = query + 2 * kv + hidden + 2 * inner + hidden
    norms = 2 * hidden + query + kv
    assert count_parameters(config) == 2 * (weights + biases + norms) + 4096 * hidden + hidden
