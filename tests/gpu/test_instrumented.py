"""The instrumented decoder and what is built on it, on a CUDA device: `python -m pytest -m gpu`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from surelock.decoding.oracle import oracle_decode
from surelock.measure.instrumented import InstrumentedDecoder, RefreshEvery
from surelock.measure.trace import lock_steps, trace
from surelock.params import LockParams, SamplingParams
from tests.tiny import MASK, tiny_model

pytestmark = pytest.mark.gpu


def prompts(num: int, length: int) -> list[list[int | None]]:
    ids: list[list[int | None]] = torch.randint(
        0, MASK, (num, length), generator=torch.Generator().manual_seed(0)
    ).tolist()
    return ids


@pytest.mark.parametrize("lock", [None, LockParams(kl_threshold=0.2), LockParams.paper(0.5)])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_tokens_and_locks_equal_the_oracle_on_the_cpu(lock: LockParams | None, temperature: float) -> None:
    cpu, cuda = tiny_model(2), tiny_model(2).to("cuda")
    params = SamplingParams(max_tokens=20, steps=14, block_length=12, temperature=temperature, lock=lock)
    canvases = prompts(8, 9)
    found = InstrumentedDecoder(cuda).run(canvases, params, seeds=range(8))
    num_compared = 0
    for row, canvas in enumerate(canvases):
        oracle = oracle_decode(cpu, canvas, params, mask_token_id=MASK, seed=row)
        # A decision within rounding may fall either way on another device.
        if oracle.margin > 2e-4:
            assert found.tokens[row].tolist() == oracle.tokens
            assert found.locked_at[row].tolist() == [at or 0 for at in oracle.locked_at]
            num_compared += 1
    assert num_compared >= 4


def test_a_trace_is_that_of_the_cpu() -> None:
    params = SamplingParams(max_tokens=16, lock=None, seed=0)
    cpu, cuda = (
        trace(InstrumentedDecoder(tiny_model(1).to(device)), prompts(3, 8), params) for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(cuda.tv, cpu.tv, atol=1e-4)
    np.testing.assert_allclose(cuda.kl[1:], cpu.kl[1:], atol=1e-4)
    assert np.array_equal(cuda.committed_at, cpu.committed_at)
    assert lock_steps(cuda, LockParams(kl_threshold=0.2)).any()


def test_half_precision_runs() -> None:
    model = tiny_model(0, torch.bfloat16).to("cuda")
    record = InstrumentedDecoder(model, measure_drift=True).run(
        prompts(4, 8), SamplingParams(max_tokens=8), refresh=RefreshEvery(4)
    )
    assert not bool((record.tokens == MASK).any())


def test_large_batches_stay_within_memory() -> None:
    """128 canvases of 320 positions and 4,096 ids."""
    overrides: dict[str, Any] = {
        "vocab_size": 4096, "embedding_size": 4096, "hidden_size": 384, "intermediate_size": 1024, "num_layers": 8,
        "num_heads": 6, "num_kv_heads": 6, "head_dim": 64, "max_sequence_length": 512,
    }  # fmt: skip
    decoder = InstrumentedDecoder(tiny_model(0, **overrides).to("cuda"), measure_drift=True)
    torch.cuda.reset_peak_memory_stats()
    decoder.run(prompts(128, 64), SamplingParams(max_tokens=256, steps=4))
    assert torch.cuda.max_memory_allocated() < 40 << 30
