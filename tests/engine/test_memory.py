"""Predicted bytes against what tensors really take on a CPU, where torch runs the plain ops one by one."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from surelock.bench.shapes import LLADA_8B
from surelock.decoding.canvases import Canvases
from surelock.decoding.proposal import RowParams, propose
from surelock.engine.kv_pool import KVPool
from surelock.engine.memory import (
    STATE_BYTES,
    MemoryPlan,
    _layer_bytes_per_row,
    activation_bytes,
    canvas_bytes_per_position,
    check_fits,
    kv_bytes_per_position,
    plan_memory,
    weight_bytes,
)
from surelock.errors import OutOfMemoryError, PromptError
from surelock.models.config import ModelConfig
from surelock.models.row_batch import LayerKV, RowBatch
from surelock.models.transformer import Transformer
from surelock.ops.row_attention import RowSpan, Spans
from surelock.ops.step_kl import step_kl
from tests.tiny import MASK, tiny_config, tiny_model

DTYPES = [torch.float32, torch.bfloat16]
shapes = st.builds(
    tiny_config,
    hidden_size=st.sampled_from([32, 64, 256]),
    intermediate_size=st.sampled_from([8, 48, 1024]),
    num_heads=st.sampled_from([4, 8]),
    embedding_size=st.sampled_from([48, 1000, 50_000]),
    max_sequence_length=st.sampled_from([1, 96, 4096]),
)


class PeakBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes of tensors made inside it that were there at the same time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._num_bytes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note((args, kwargs), is_new=False)
        result = func(*args, **(kwargs or {}))
        self._note(result, is_new=True)
        return result

    def _note(self, tensors: object, *, is_new: bool) -> None:
        for x in tree_iter(tensors):
            if not isinstance(x, Tensor):
                continue
            storage = x.untyped_storage()
            key = storage._cdata
            if key in self._num_bytes:
                continue
            self._num_bytes[key] = storage.nbytes() if is_new else 0
            self._live += self._num_bytes[key]
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self._live -= self._num_bytes.pop(key)


def forward(model: Transformer, num_rows: int, kv: list[LayerKV]) -> Tensor:
    position = torch.arange(num_rows)
    spans = Spans.of([RowSpan(0, num_rows, num_rows)], model.device)
    return model.hidden(RowBatch(position % MASK, position, position, spans), kv)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"qk_norm": True},
        {"hidden_size": 64, "intermediate_size": 512, "num_heads": 8, "num_kv_heads": 8},
        {"hidden_size": 256, "intermediate_size": 8},
        {"num_heads": 16, "num_kv_heads": 16, "intermediate_size": 8},
    ],
)
@torch.inference_mode()
def test_activations_of_the_layers(dtype: torch.dtype, overrides: dict[str, Any]) -> None:
    model, num_rows = tiny_model(dtype=dtype, embedding_size=MASK + 1, **overrides), 90
    kv = KVPool(model.config, dtype=dtype, device=model.device)
    kv.grow(num_rows)
    forward(model, num_rows, kv.layers)
    with PeakBytes() as found:
        forward(model, num_rows, kv.layers)
    # The head of a tiny model outweighs its layers, so of a model with next to no vocabulary.
    layers = num_rows * _layer_bytes_per_row(model.config, dtype)
    assert layers <= activation_bytes(model.config, dtype, num_rows)
    assert 0.5 * layers <= found.peak <= layers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 7, 200])
@pytest.mark.parametrize("vocab", [48, 3000])
@torch.inference_mode()
def test_activations_of_the_head(dtype: torch.dtype, num_rows: int, vocab: int) -> None:
    model = tiny_model(dtype=dtype, embedding_size=vocab)
    hidden = torch.randn(num_rows, model.config.hidden_size).to(dtype)
    zeros = torch.zeros(num_rows, dtype=torch.int64)
    rows = RowParams(zeros, zeros, torch.arange(num_rows), torch.ones(num_rows, dtype=torch.float64), zeros.bool())
    with PeakBytes() as choosing:
        propose(hidden, model.lm_head, rows, MASK)
    with PeakBytes() as measuring:
        step_kl(hidden, hidden + 0.1, model.lm_head)
    predicted = activation_bytes(model.config, dtype, num_rows, device_type="cpu")
    assert max(choosing.peak, measuring.peak) <= predicted
    if num_rows > 1 and vocab > 48:
        assert predicted <= 2 * max(choosing.peak, measuring.peak)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_bytes_of_a_position(dtype: torch.dtype) -> None:
    config = tiny_config()
    with PeakBytes() as kept:
        KVPool(config, dtype=dtype, device=torch.device("cpu")).grow(350)
    assert kept.peak == 350 * kv_bytes_per_position(config, dtype)

    canvas = Canvases(config.hidden_size, dtype=dtype, device=torch.device("cpu"), num_slots=5, length=70)
    hidden = (canvas.flat_hidden, canvas.flat_previous)
    tensors = [x for x in vars(canvas).values() if isinstance(x, Tensor) and not any(x is y for y in hidden)]
    assert sum(x.untyped_storage().nbytes() for x in tensors) <= 350 * STATE_BYTES
    # One cell more than positions, for rows that pad.
    num_bytes = sum(x.untyped_storage().nbytes() for x in hidden) * 350 // 351
    assert 350 * canvas_bytes_per_position(config, dtype) == num_bytes + 350 * STATE_BYTES


def test_known_sizes_of_llada_8b() -> None:
    assert kv_bytes_per_position(LLADA_8B, torch.bfloat16) == 512 * 1024
    assert canvas_bytes_per_position(LLADA_8B, torch.bfloat16) == 16 * 1024 + STATE_BYTES


def test_tied_weights_count_once() -> None:
    apart, tied = tiny_model(), tiny_model(tie_embeddings=True)
    assert weight_bytes(apart) - weight_bytes(tied) == 48 * 32 * 4
    assert weight_bytes(tiny_model(dtype=torch.bfloat16)) * 2 == weight_bytes(apart)


@given(config=shapes, dtype=st.sampled_from(DTYPES), num_rows=st.integers(0, 20_000), more=st.integers(1, 1000))
def test_activations_grow_with_the_rows(config: ModelConfig, dtype: torch.dtype, num_rows: int, more: int) -> None:
    for device_type in ("cpu", "cuda"):
        less = activation_bytes(config, dtype, num_rows, device_type=device_type)
        assert (less == 0) == (num_rows == 0)
        assert less < activation_bytes(config, dtype, num_rows + more, device_type=device_type)


@given(
    config=shapes,
    dtype=st.sampled_from(DTYPES),
    free_bytes=st.integers(18, 36).flatmap(lambda bits: st.integers(1 << bits, 2 << bits)),
    fraction=st.floats(0.01, 1.0),
    max_rows=st.integers(1, 10_000),
    max_positions=st.none() | st.integers(1, 10_000),
)
def test_a_plan_fits_and_more_memory_is_never_less(
    config: ModelConfig,
    dtype: torch.dtype,
    free_bytes: int,
    fraction: float,
    max_rows: int,
    max_positions: int | None,
) -> None:
    def plan(num_bytes: int) -> MemoryPlan:
        return plan_memory(
            config,
            dtype,
            free_bytes=num_bytes,
            fraction=fraction,
            max_rows=max_rows,
            max_positions=max_positions,
            device_type="cpu",
        )

    per_position = kv_bytes_per_position(config, dtype) + canvas_bytes_per_position(config, dtype)
    try:
        found = plan(free_bytes)
    except OutOfMemoryError:
        assert fraction * free_bytes < 2 * activation_bytes(config, dtype, 1, device_type="cpu") + 2 * per_position
        return
    for num_rows in (found.max_rows, found.max_request_positions):
        activations = activation_bytes(config, dtype, num_rows, device_type="cpu")
        assert found.num_positions * per_position + activations <= fraction * free_bytes
    assert 1 <= found.max_rows <= max_rows
    assert 1 <= found.max_request_positions < found.num_positions <= max(2, max_positions or 1 << 36)
    larger = plan(2 * free_bytes)
    assert larger.max_rows >= found.max_rows
    assert larger.max_request_positions >= found.max_request_positions


def test_an_h100_beside_the_weights_of_llada_8b() -> None:
    plan = plan_memory(LLADA_8B, torch.bfloat16, free_bytes=62 << 30, fraction=0.9, max_rows=4096)
    assert plan.max_rows == 4096
    # The longest canvas the model takes, under guidance.
    assert plan.max_request_positions == 8192
    assert 90_000 < plan.num_positions < 110_000
    few = plan_memory(LLADA_8B, torch.bfloat16, free_bytes=62 << 30, fraction=0.9, max_rows=4096, max_positions=8193)
    assert few == MemoryPlan(8193, 4096, 8192)


def test_what_can_never_fit_is_refused() -> None:
    plan = MemoryPlan(num_positions=101, max_rows=64, max_request_positions=100)
    check_fits(plan, 100, 1)
    check_fits(plan, 50, 2)
    with pytest.raises(
        PromptError, match=r"needs memory for 101 positions; .* enough for 100: shorten it, or raise mem"
    ):
        check_fits(plan, 101, 1)
    with pytest.raises(
        PromptError, match=r"for 102 positions in 2 streams \(guidance\).* set cfg_scale to 0, or raise"
    ):
        check_fits(plan, 51, 2)


@pytest.mark.parametrize(("free_bytes", "fraction"), [(0, 0.9), (1 << 30, 1e-6)])
def test_too_little_memory_for_anything(free_bytes: int, fraction: float) -> None:
    with pytest.raises(
        OutOfMemoryError, match="does not hold one position of this model beside a step: raise it, free"
    ):
        plan_memory(LLADA_8B, torch.bfloat16, free_bytes=free_bytes, fraction=fraction)
