"""Which type a model is loaded in, and what is said of one that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surelock import LLM
from surelock.bench.shapes import LLADA_8B
from surelock.engine.loading import WeightMemory
from surelock.errors import OutOfMemoryError
from surelock.models.llada import LLADA
from surelock.models.weights import num_parameters
from tests.checkpoints import write_sparse_checkpoint

GIB = 1 << 30
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


def llada_8b(free: float, own: torch.dtype = BF16, device: str = "cpu") -> WeightMemory:
    return WeightMemory("llada", num_parameters(LLADA_8B, LLADA), torch.device(device), int(free * GIB), own)


def test_parameters_of_llada_8b() -> None:
    # GSAI-ML/LLaDA-8B-Base, total_size of its index / 2 bytes.
    assert num_parameters(LLADA_8B, LLADA) == 8_015_581_184


@pytest.mark.parametrize(
    ("memory", "wanted", "chosen"),
    [
        (llada_8b(30), None, F32),
        (llada_8b(20), None, BF16),
        (llada_8b(20, own=F16), None, F16),
        (llada_8b(20), BF16, BF16),
        (llada_8b(30), F32, F32),
        (llada_8b(20), F16, F16),
        (llada_8b(80, device="cuda"), None, BF16),
        (llada_8b(80, own=F32, device="cuda"), None, F32),
    ],
)
def test_type_that_fits(memory: WeightMemory, wanted: torch.dtype | None, chosen: torch.dtype) -> None:
    assert memory.choose(wanted) == chosen


@pytest.mark.parametrize(
    ("memory", "wanted", "message"),
    [
        (llada_8b(20.1), F32, "needs 29.9 GiB in float32, 20.1 GiB are free on cpu: --dtype bfloat16 needs 14.9 GiB"),
        (llada_8b(20.1, own=F16), F32, "are free on cpu: --dtype float16 needs 14.9 GiB"),
        (llada_8b(20.1, own=F32), None, "are free on cpu: --dtype bfloat16 needs 14.9 GiB"),
        (llada_8b(8), None, "29.9 GiB in float32 and 14.9 GiB in bfloat16, 8.0 GiB are free on cpu: free memory, or"),
        (llada_8b(8), BF16, "llada needs 14.9 GiB in bfloat16, 8.0 GiB are free on cpu: free memory, or use a smaller"),
        (llada_8b(8, device="cuda:1"), None, "needs 14.9 GiB in bfloat16, 8.0 GiB are free on cuda:1: free memory"),
        (
            llada_8b(20, own=F32, device="cuda"),
            None,
            "29.9 GiB in float32, 20.0 GiB are free on cuda: --dtype bfloat16",
        ),
    ],
)
def test_no_type_fits(memory: WeightMemory, wanted: torch.dtype | None, message: str) -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        memory.choose(wanted)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_sparse_checkpoint(tmp_path / "m", dtype="BF16", d_model=4096, n_layers=32, mlp_hidden_size=12288)
    monkeypatch.setattr("surelock.engine.loading.free_bytes", lambda device: 20 * GIB)
    monkeypatch.setattr("surelock.models.weights.Weights.load", None)
    with pytest.raises(
        OutOfMemoryError, match=r"m needs 24\.0 GiB in float32, 20\.0 GiB are free .* bfloat16 needs 12"
    ):
        LLM(folder, dtype="float32", device="cpu")


def test_float32_that_does_not_fit_gives_way_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sparse_checkpoint(tmp_path / "m", dtype="BF16")
    exact = LLM(folder, device="cpu")
    assert (exact.dtype, exact.dtype_note) == (F32, None)
    num_bytes = 2 * sum(parameter.numel() for parameter in exact.transformer.parameters())
    monkeypatch.setattr("surelock.engine.loading.free_bytes", lambda device: num_bytes)
    narrow = LLM(folder, device="cpu")
    assert narrow.dtype == BF16
    assert narrow.dtype_note is not None
    assert narrow.dtype_note.startswith("m is loaded in bfloat16, its own type: float32 needs ")
    assert LLM(folder, device="cpu", dtype="bfloat16").dtype_note is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_an_allocation_that_fails_names_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """`models/test_hostile_checkpoints.py` has the real failures of a CPU."""
    assert failed_load(tmp_path, monkeypatch, error, OutOfMemoryError).startswith(
        "memory ran out while m was loaded: it needs "
    )


def test_a_bug_is_no_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failed_load(tmp_path, monkeypatch, RuntimeError("a bug"), RuntimeError) == "a bug"


def failed_load(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]) -> str:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("surelock.models.weights.Weights.load", fail)
    with pytest.raises(kind) as caught:
        LLM(write_sparse_checkpoint(folder / "m"), device="cpu")
    return str(caught.value)
