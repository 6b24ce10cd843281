"""The same engine on a CUDA device: `python -m pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

from surelock import LLM, LockParams, SamplingParams
from surelock.config import EngineConfig
from surelock.decoding.noise import Purpose, uniform
from surelock.decoding.oracle import oracle_decode
from surelock.engine.engine import Engine
from surelock.engine.request import Request
from surelock.measure.verify import verify
from surelock.models.transformer import Transformer
from surelock.ops.row_attention import RowSpan, Spans, reference, row_attention
from tests.test_golden import FOLDER, canvas_of, cases, load, params_of, rows_of
from tests.tiny import MASK, tiny_model

pytestmark = pytest.mark.gpu
LOCKS = [None, LockParams(kl_threshold=0.5), LockParams.paper(0.5), LockParams(kl_threshold=2.0, prompt_lock_step=2)]


def finish(engine: Engine) -> dict[Request, list[int]]:
    final = {}
    while engine.has_unfinished:
        final.update({snapshot.request: snapshot.tokens for snapshot in engine.step(watched=False)})
    return final


def prompt(seed: int, length: int) -> list[int]:
    return torch.randint(0, MASK, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("cfg_scale", [0.0, 1.2])
def test_float32_tokens_equal_the_oracle_on_the_cpu(lock: LockParams | None, cfg_scale: float) -> None:
    cpu, cuda = tiny_model(2), tiny_model(2).to("cuda")
    engine = Engine(cuda, EngineConfig(poison=True, max_batch_size=3))
    expected = {}
    for seed in range(8):
        params = SamplingParams(
            max_tokens=10 + 3 * seed, steps=9 + 2 * seed, block_length=8, cfg_scale=cfg_scale, seed=seed,
            temperature=0.7 * (seed % 2), lock=lock,
        )  # fmt: skip
        request = engine.add_request(prompt(seed, 4 + 5 * seed), params)
        oracle = oracle_decode(cpu, request.canvas_ids, params, mask_token_id=MASK, seed=seed)
        # A decision within rounding may fall either way on another device.
        if oracle.margin > 2e-4:
            expected[request] = oracle.tokens
    final = finish(engine)
    assert len(expected) >= 4
    assert {request: final[request] for request in expected} == expected


@pytest.mark.parametrize(("variant", "name", "prompt_name"), list(cases()))
def test_golden_tokens(variant: str, name: str, prompt_name: str) -> None:
    _, arrays = load(variant)
    llm = LLM(FOLDER / variant, device="cuda", dtype="float32")
    params = params_of(variant, name, prompt_name)
    engine = Engine(llm.transformer, EngineConfig(poison=True))
    requests = {}
    for row, (ids, keep) in enumerate(rows_of(variant, "prompt", prompt_name)):
        columns = [*keep.tolist(), *[True] * params.max_tokens]
        request = engine.add_request(canvas_of(llm.transformer, ids), params)
        requests[request] = arrays[f"tokens/{name}/{prompt_name}"][row][columns].tolist()
    assert finish(engine) == requests


def test_noise_is_the_same_on_both_devices() -> None:
    seed, step, position = torch.tensor([[3, 2**62], [1, 9], [0, 77]])
    there = uniform(seed.cuda(), step.cuda(), position.cuda(), 1000, Purpose.TOKEN)
    assert torch.equal(there.cpu(), uniform(seed, step, position, 1000, Purpose.TOKEN))


@pytest.mark.parametrize("lock", LOCKS)
def test_half_precision_runs_on_poisoned_slots(lock: LockParams | None) -> None:
    model: Transformer = tiny_model(1, dtype=torch.bfloat16).to("cuda")
    engine = Engine(model, EngineConfig(poison=True, max_batch_size=3))
    requests = [
        engine.add_request(prompt(seed, 3 + 7 * seed), SamplingParams(max_tokens=12 + seed, lock=lock))
        for seed in range(6)
    ]
    final = finish(engine)
    assert not any(request.failed for request in requests)
    assert all(MASK not in final[request] for request in requests)


def test_the_embedded_model_verifies() -> None:
    report = verify(LLM(device="cuda", dtype="float32"), ["Call me Ishmael."], SamplingParams(max_tokens=24))
    assert report.exact
    assert report.active_ratio < 0.8


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("cfg_scale", [0.0, 1.2])
def test_captured_steps_give_the_tokens_of_eager_ones(lock: LockParams | None, cfg_scale: float) -> None:
    """Padding changes the shape of a product and so its rounding; the tiny model's decisions are rarely that close."""
    model: Transformer = tiny_model(3, dtype=torch.bfloat16).to("cuda")
    tokens = []
    for cuda_graphs in (True, False):
        engine = Engine(model, EngineConfig(poison=True, max_batch_size=3, cuda_graphs=cuda_graphs))
        requests = [
            engine.add_request(
                prompt(seed, 3 + 7 * seed), SamplingParams(max_tokens=20, cfg_scale=cfg_scale, lock=lock)
            )
            for seed in range(8)
        ]
        final = finish(engine)
        assert not any(request.failed for request in requests)
        tokens.append([final[request] for request in requests])
    same = sum(a == b for a, b in zip(*tokens, strict=True))
    assert same >= 4


def test_a_graph_is_captured_once_for_each_bucket_and_outlives_the_call() -> None:
    llm = LLM(device="cuda", dtype="bfloat16")
    params = SamplingParams(max_tokens=40, lock=None)
    first = llm.generate(["The sea", "A tree"], params)
    engine = llm._idle_engine
    assert engine is not None
    num_graphs = engine.num_graphs
    # One forward; one set of decisions for each number of masks, padded.
    assert 2 <= num_graphs <= 8
    assert llm.generate(["The sea", "A tree"], params) == first
    assert llm._idle_engine is engine
    assert engine.num_graphs == num_graphs


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_ragged_attention_equals_the_reference(num_kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    spans = [RowSpan(256, 7, 20), RowSpan(0, 0, 3), RowSpan(131, 1, 1), RowSpan(319, 130, 64), RowSpan(65, 3, 33)]
    queries = torch.randn(141, 4, 64, generator=generator).to("cuda", torch.bfloat16)
    keys, values = torch.full((2, 384, num_kv_heads, 64), torch.nan, dtype=torch.bfloat16, device="cuda")
    for start, _, num_keys in spans:
        for buffer in (keys, values):
            rows = torch.randn(num_keys, num_kv_heads, 64, generator=generator)
            buffer[start : start + num_keys] = rows.to("cuda", torch.bfloat16)
    batch = Spans.of(spans, queries.device)
    expected = reference(queries.float(), keys.float(), values.float(), batch)
    torch.testing.assert_close(row_attention(queries, keys, values, batch).float(), expected, rtol=2e-2, atol=2e-2)
