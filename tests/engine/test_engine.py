"""Requests that join, leave, fail and are aborted; what locking freezes; what memory is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from surelock.assemble import request_output
from surelock.config import EngineConfig
from surelock.engine.device_batch import DeviceBatch, Launched
from surelock.engine.engine import Engine
from surelock.engine.request import Request
from surelock.engine.snapshot import Snapshot
from surelock.errors import EngineError, OutOfMemoryError, ParameterError, PromptError
from surelock.models.layer import TransformerLayer
from surelock.models.transformer import Transformer
from surelock.params import LockParams, SamplingParams
from tests.engine.replayed import Replayed
from tests.tiny import MASK, VOCAB, tiny_model

EAGER = LockParams(kl_threshold=50.0)


def finish(engine: Engine) -> dict[Request, Snapshot]:
    final = {}
    while engine.has_unfinished:
        final.update({s.request: s for s in engine.step() if s.request.is_finished})
    return final


def prompt(seed: int, length: int = 10) -> list[int]:
    return torch.randint(1, MASK, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@settings(max_examples=30)
@given(
    lock=st.builds(
        LockParams,
        kl_threshold=st.sampled_from([1e-2, 0.5, 50.0]),
        min_visible_steps=st.integers(0, 2),
        confidence_percentile=st.sampled_from([None, 20.0]),
        refresh=st.none(),
    ),
    steps=st.integers(1, 30),
)
def test_active_rows_never_grow_and_cover_the_masks(lock: LockParams, steps: int) -> None:
    engine = Engine(tiny_model(), EngineConfig(poison=True))
    request = engine.add_request(prompt(3), SamplingParams(max_tokens=20, steps=steps, lock=lock))
    finish(engine)
    assert len(request.active_rows) == request.step == min(steps, 20)
    assert request.active_rows[0] == 30
    assert all(later <= earlier for earlier, later in zip(request.active_rows, request.active_rows[1:], strict=False))
    # Quota per step is at most ceil(20 / steps), so this many are still masked before step t.
    for t, rows in enumerate(request.active_rows):
        assert rows >= max(0, 20 - t * -(-20 // steps))


@pytest.mark.parametrize("graphs", [None, Replayed()])
def test_a_refresh_computes_locked_positions_and_leaves_them_locked(graphs: Replayed | None) -> None:
    engine = Engine(tiny_model(), EngineConfig(poison=True), graphs=graphs)
    lock = LockParams(kl_threshold=50.0, refresh=4)
    request = engine.add_request(prompt(3), SamplingParams(max_tokens=20, lock=lock))
    shown: list[Snapshot] = []
    while engine.has_unfinished:
        # Rows may rise again, so the scheduler keeps room for the whole canvas.
        assert request.num_rows == 30
        shown += engine.step()
    rows = request.active_rows
    assert rows[0] == rows[3] == rows[7] == 30
    assert max(rows[4:7]) < 30
    for before, after in pairwise(shown):
        for step, later in zip(before.locked_at, after.locked_at, strict=True):
            assert step is None or step == later


@pytest.mark.parametrize("graphs", [None, Replayed()])
def test_requests_that_refresh_in_the_same_step_stay_within_the_rows_of_a_step(graphs: Replayed | None) -> None:
    """Those that start together refresh together; only what permanent locks free is the next request's."""
    most_running = {}
    for lock in (EAGER, replace(EAGER, refresh=None)):
        engine = Engine(tiny_model(), EngineConfig(max_rows=70, poison=True), graphs=graphs)
        params = SamplingParams(max_tokens=20, lock=lock)
        requests = [engine.add_request(prompt(seed), params) for seed in range(5)]
        rows: list[int] = []
        running: list[int] = []
        while engine.has_unfinished:
            before = [request.step for request in requests]
            engine.step()
            now = [each for each, step in zip(requests, before, strict=True) if each.step > step]
            rows.append(sum(each.active_rows[-1] for each in now))
            running.append(len(now))
        assert max(rows) <= 70
        assert (rows[5] == 60) == (lock.refresh == 6)
        most_running[lock.refresh] = max(running)
    assert most_running[6] == 2 < most_running[None]


def layer_0_keys(model: Transformer, tokens: list[int]) -> Tensor:
    """Rotated keys [N, heads, head_dim] that layer 0 gives these tokens at these positions."""
    rotation = model.rotation(torch.arange(len(tokens)))
    layer = model.layers[0]
    assert isinstance(layer, TransformerLayer)
    with torch.inference_mode():
        return layer.project(model.embed(torch.tensor(tokens)), rotation)[1]


@pytest.mark.parametrize(("min_visible_steps", "refresh"), [(0, None), (1, None), (2, None), (0, 10)])
def test_layer_0_keys_of_locked_positions_are_those_of_their_token(min_visible_steps: int, refresh: int | None) -> None:
    """With at least one visible step no locked position holds the keys of [MASK]; the literal rule does freeze them.

    A refresh, here in the last step, gives them the keys of their token.
    """
    model = tiny_model()
    # What a finished request leaves behind is looked at, so it must not be poisoned.
    engine = Engine(model)
    lock = LockParams(kl_threshold=50.0, min_visible_steps=min_visible_steps, refresh=refresh)
    request = engine.add_request(prompt(5), SamplingParams(max_tokens=20, steps=10, lock=lock))
    last = finish(engine)[request]
    tokens, locked_at = last.tokens, last.locked_at
    kept = engine._batch.kv.layers[0].keys[1:31]
    real, ghost = layer_0_keys(model, tokens), layer_0_keys(model, [MASK] * 30)
    generated = [position for position in range(10, 30) if locked_at[position]]
    assert generated
    is_ghost = [torch.allclose(kept[position], ghost[position], atol=1e-6) for position in generated]
    is_real = [torch.allclose(kept[position], real[position], atol=1e-5) for position in generated]
    if min_visible_steps or refresh:
        assert all(is_real)
        assert (request.num_ghosts > 0) == (refresh is not None)
    else:
        assert any(is_ghost)
        assert request.num_ghosts == sum(is_ghost)
    assert request.num_generated_locks == len(generated)


def test_rows_of_locked_positions_are_not_computed() -> None:
    """The model is given exactly the active rows: counted where it embeds them."""
    model = tiny_model()
    seen: list[int] = []
    embed = model.embed

    def counting(token_ids: Tensor) -> Tensor:
        seen.append(len(token_ids))
        return embed(token_ids)

    model.embed = counting  # type: ignore[method-assign]
    engine = Engine(model)
    request = engine.add_request(prompt(1), SamplingParams(max_tokens=16, lock=EAGER))
    finish(engine)
    assert seen == request.active_rows
    assert seen[-1] < 26


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
@pytest.mark.parametrize("length", [1, 10, 33])
def test_a_request_does_not_depend_on_its_batch_mates(temperature: float, cfg_scale: float, length: int) -> None:
    model = tiny_model()
    params = SamplingParams(
        max_tokens=18, temperature=temperature, cfg_scale=cfg_scale, seed=7, lock=LockParams(kl_threshold=0.5)
    )
    alone = Engine(model)
    lonely = alone.add_request(prompt(2, length), params)
    expected = finish(alone)[lonely]

    engine = Engine(model, EngineConfig(max_batch_size=3, poison=True))
    for seed, mate_length, mate_scale in ((3, 4, 0.0), (4, 25, 2.0), (5, 9, 0.0), (6, 12, 1.0)):
        mate = SamplingParams(max_tokens=30, steps=11, block_length=7, cfg_scale=mate_scale)
        engine.add_request(prompt(seed, mate_length), mate)
    engine.step()
    request = engine.add_request(prompt(2, length), params)
    got = finish(engine)[request]
    assert (got.tokens, got.locked_at) == (expected.tokens, expected.locked_at)
    assert request.active_rows == lonely.active_rows


def test_slots_of_keys_and_values_are_given_back() -> None:
    engine = Engine(tiny_model(), EngineConfig(max_batch_size=2))
    for seed in range(6):
        engine.add_request(prompt(seed), SamplingParams(max_tokens=3 + seed, cfg_scale=seed % 2))
    finish(engine)
    # At most two requests at a time, of which one has two streams, a reserved place, and twice that for growth.
    assert engine._batch.kv.num_places <= 2 * (1 + 2 * 18 + 2 * 17)
    assert engine._pool.num_free == engine._pool.capacity - 1


def test_an_interrupted_engine_refuses_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a step may have been written: going on could return another request's tokens."""
    model = tiny_model()
    engine = Engine(model)
    engine.add_request(prompt(1), SamplingParams(max_tokens=4))
    engine.step()

    def fail(*_: object) -> None:
        raise OSError("no more")

    with monkeypatch.context() as patched:
        patched.setattr(engine._batch.kv, "grow", fail)
        engine.add_request(prompt(2, 40), SamplingParams(max_tokens=4))
        with pytest.raises(OSError, match="no more"):
            engine.step()
    with pytest.raises(EngineError, match=r"OSError: no more.*make a new one"):
        engine.step()


def counters(request: Request) -> list[object]:
    counts = request.active_rows, request.num_proposed, request.num_scored
    return [*counts, request.num_ghosts, request.num_generated_locks, request.num_gate_blocked]


@pytest.mark.parametrize("graphs", [None, Replayed()])
def test_memory_that_runs_out_is_survived_with_fewer_rows(
    monkeypatch: pytest.MonkeyPatch, graphs: Replayed | None
) -> None:
    model = tiny_model()
    lock = LockParams(kl_threshold=50.0, min_visible_steps=0, confidence_percentile=60)
    wanted = [(prompt(seed, 10 + seed), SamplingParams(max_tokens=8 + seed, lock=lock)) for seed in range(6)]
    expected, counted = [], []
    for each in wanted:
        alone = Engine(model)
        request = alone.add_request(*each)
        expected.append(finish(alone)[request].tokens)
        counted.append(counters(request))

    launch = DeviceBatch.launch
    num_rows_run: list[int] = []

    def scarce(self: DeviceBatch, running: Sequence[Request]) -> Launched:
        num_rows = sum(request.num_rows for request in running)
        if num_rows > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")
        num_rows_run.append(num_rows)
        return launch(self, running)

    monkeypatch.setattr(DeviceBatch, "launch", scarce)
    engine = Engine(model, EngineConfig(poison=True), graphs=graphs)
    requests = [engine.add_request(*each) for each in wanted]
    final = {}
    while engine.has_unfinished:
        final.update({s.request: s.tokens for s in engine.step(watched=False) if s.request.is_finished})
    assert [final[request] for request in requests] == expected
    # Nothing of the steps before memory ran out is counted.
    assert [counters(request) for request in requests] == counted
    assert any(request.num_ghosts and request.num_gate_blocked for request in requests)
    # Locking frees rows, and the next request uses them.
    assert max(num_rows_run) > 23
    assert engine._pool.num_free == engine._pool.capacity - 1


def test_a_restart_in_mid_run_counts_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, launch = tiny_model(), DeviceBatch.launch
    lock = LockParams(kl_threshold=50.0, min_visible_steps=0, confidence_percentile=60)
    wanted = [(prompt(seed), SamplingParams(max_tokens=12, lock=lock)) for seed in range(2)]
    expected = []
    for each in wanted:
        alone = Engine(model)
        request = alone.add_request(*each)
        finish(alone)
        expected.append(counters(request))
    assert all(request[-1] and request[-2] and request[-3] for request in expected)

    num_launches = 0

    def scarce(self: DeviceBatch, running: Sequence[Request]) -> Launched:
        nonlocal num_launches
        num_launches += 1
        if num_launches == 11:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return launch(self, running)

    monkeypatch.setattr(DeviceBatch, "launch", scarce)
    engine = Engine(model, EngineConfig(poison=True))
    requests = [engine.add_request(*each) for each in wanted]
    finish(engine)
    assert num_launches > 12
    assert [counters(request) for request in requests] == expected


def test_one_request_that_memory_cannot_hold_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    launch = DeviceBatch.launch

    def scarce(self: DeviceBatch, running: Sequence[Request]) -> Launched:
        if sum(request.num_rows for request in running) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return launch(self, running)

    monkeypatch.setattr(DeviceBatch, "launch", scarce)
    engine = Engine(model, EngineConfig(poison=True))
    small, large, last = (
        engine.add_request(prompt(seed, length), SamplingParams(max_tokens=10))
        for seed, length in ((1, 5), (2, 60), (3, 5))
    )
    final = finish(engine)
    assert set(final) == {small, large, last}
    assert large.failed
    assert isinstance(large.error, OutOfMemoryError)
    assert "memory ran out for a canvas of 70 positions" in str(large.error)
    assert not small.failed
    assert not last.failed


def test_canvases_that_cannot_be_decoded_are_refused_at_the_door() -> None:
    engine = Engine(tiny_model())
    with pytest.raises(PromptError, match="the canvas has 97 positions; the model's limit is 96"):
        engine.add_request(prompt(1, 90), SamplingParams(max_tokens=7))
    with pytest.raises(PromptError, match="no masked position"):
        engine.add_request(prompt(1), SamplingParams(max_tokens=0))


def test_slots_grow_while_requests_run() -> None:
    model = tiny_model()
    engine = Engine(model, EngineConfig(poison=True))
    small = engine.add_request(prompt(2, 5), SamplingParams(max_tokens=12, lock=EAGER))
    for _ in range(5):
        engine.step()
    large = engine.add_request(prompt(3, 40), SamplingParams(max_tokens=30, cfg_scale=1.0))
    final = finish(engine)
    for request in (small, large):
        alone = Engine(model)
        again = alone.add_request(request.canvas_ids, request.params)
        assert finish(alone)[again].tokens == final[request].tokens


@settings(max_examples=12)
@given(abort_after=st.integers(0, 12), victim=st.integers(0, 3))
def test_abort_at_any_step_leaves_the_others_alone(abort_after: int, victim: int) -> None:
    model = tiny_model()
    engine = Engine(model, EngineConfig(max_batch_size=2, poison=True))
    params = SamplingParams(max_tokens=6, lock=EAGER)
    requests = [engine.add_request(prompt(seed, 4 + seed), params) for seed in range(4)]
    final: dict[Request, Snapshot] = {}
    for _ in range(abort_after):
        final.update({s.request: s for s in engine.step() if s.request.is_finished})
    engine.abort_request(requests[victim])
    engine.abort_request(requests[victim])
    after = []
    while engine.has_unfinished:
        after += engine.step()
    assert requests[victim] not in [snapshot.request for snapshot in after]
    final.update({snapshot.request: snapshot for snapshot in after if snapshot.request.is_finished})
    for index, request in enumerate(requests):
        if index != victim:
            alone = Engine(model)
            again = alone.add_request(request.canvas_ids, params)
            assert finish(alone)[again].tokens == final[request].tokens


def test_non_finite_logits_fail_one_request() -> None:
    model = tiny_model()
    model.embedding.weight[13] = torch.nan
    engine = Engine(model, EngineConfig(poison=True))
    healthy_prompt = [token for token in prompt(2) if token != 13]
    # The healthy request never reads the broken embedding: the head is another matrix.
    broken = engine.add_request([13, 2, 3], SamplingParams(max_tokens=4))
    healthy = engine.add_request(healthy_prompt, SamplingParams(max_tokens=4))
    final = finish(engine)
    assert broken.failed
    assert broken.step == 1
    assert final[broken].tokens == [13, 2, 3, *[MASK] * 4]
    assert not healthy.failed
    assert MASK not in final[healthy].tokens


@pytest.mark.parametrize("broken_step", [2, 6, 7, 8])
@pytest.mark.parametrize("graphs", [None, Replayed()])
def test_a_request_that_fails_late_keeps_its_locks_and_masks(
    monkeypatch: pytest.MonkeyPatch, broken_step: int, graphs: Replayed | None
) -> None:
    """Of eight steps; the last but one once lost everything where results came a step late."""
    model = tiny_model()
    engine = Engine(model, EngineConfig(poison=True), graphs=graphs)
    request = engine.add_request(prompt(1), SamplingParams(max_tokens=8, lock=EAGER))
    hidden = model.hidden

    def breaking(*args: Any) -> Tensor:
        return hidden(*args) * (torch.nan if request.step + 1 == broken_step else 1.0)

    monkeypatch.setattr(model, "hidden", breaking)
    last: list[Snapshot] = []
    while engine.has_unfinished:
        last = engine.step(watched=False) or last
    assert request.failed
    assert request.step == broken_step
    (snapshot,) = last
    assert sum(snapshot.masked) == 8 - (broken_step - 1)
    assert [token == MASK for token in snapshot.tokens] == snapshot.masked
    locked = [step for step in snapshot.locked_at if step is not None]
    assert bool(locked) == (broken_step > 2)
    assert all(step < broken_step for step in locked)
    # The share is of the steps it ran, not of those it would have run.
    stats = request_output(snapshot, model.config, None).stats
    assert stats.active_ratio == sum(request.active_rows) / (broken_step * 18)


class LargestFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the size of the largest float64 tensor any operation made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor) and x.dtype == torch.float64:
                self.num_elements = max(self.num_elements, x.numel())
        return result


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_float64_tensor_of_canvas_times_vocabulary(temperature: float) -> None:
    engine = Engine(tiny_model())
    lock = LockParams(confidence_percentile=20, gate_scope="active")
    engine.add_request(prompt(1, 30), SamplingParams(max_tokens=40, steps=8, temperature=temperature, lock=lock))
    with LargestFloat64() as largest:
        finish(engine)
    assert largest.num_elements < 70 * VOCAB / 2


def test_tiny_thresholds_are_refused_where_they_measure_rounding() -> None:
    engine = Engine(tiny_model(dtype=torch.bfloat16))
    noise = SamplingParams(max_tokens=8, lock=LockParams(kl_threshold=1e-7))
    with pytest.raises(
        ParameterError, match=r"lock.kl_threshold is 1e-07; on a torch.bfloat16 model .*lock.allow_noise_eps"
    ):
        engine.add_request([1], noise)
    engine.add_request([1], SamplingParams(max_tokens=8, lock=LockParams(kl_threshold=1e-7, allow_noise_eps=True)))
    engine.add_request([1], SamplingParams(max_tokens=8, lock=LockParams(kl_threshold=-1.0)))
    Engine(tiny_model()).add_request([1], noise)
