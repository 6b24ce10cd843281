"""What captured steps rest on: buckets, and steps that are padded.

Capturing itself needs a GPU (tests/gpu); `Replayed` stands in for it here. That such steps give the oracle's tokens is
in test_engine_matches_oracle.py.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surelock.config import EngineConfig
from surelock.decoding.packing import cells_of
from surelock.engine.engine import Engine
from surelock.engine.graphs import bucket
from surelock.engine.request import Request
from surelock.errors import EngineError
from surelock.params import LockParams, SamplingParams
from tests.engine.replayed import Replayed
from tests.tiny import MASK, tiny_model


def prompt(seed: int, length: int = 10) -> list[int]:
    return torch.randint(1, MASK, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@given(num_rows=st.integers(1, 40_000), parts=st.sampled_from([2, 8, 16]))
def test_buckets_hold_their_rows_with_little_padding(num_rows: int, parts: int) -> None:
    size = bucket(num_rows, parts)
    assert size >= num_rows
    assert bucket(size, parts) == size
    if num_rows > 64:
        assert size % 32 == 0
        assert size - num_rows < max(32, num_rows / parts)


def test_buckets_are_few_and_never_shrink_with_more_rows() -> None:
    sizes = [bucket(num_rows) for num_rows in range(8193)]
    assert sizes[0] == 0
    assert sizes == sorted(sizes)
    assert len(set(sizes)) <= 97


@given(mask=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), extra=st.integers(0, 9))
def test_cells_are_packed_in_order_and_padded_behind(mask: list[list[bool]], extra: int) -> None:
    where = torch.tensor(mask)
    exact = cells_of(where, None)
    assert exact.tolist() == [i for i, is_set in enumerate(where.flatten().tolist()) if is_set]
    padded = cells_of(where, len(exact) + extra)
    assert padded.tolist() == [*exact.tolist(), *[where.numel()] * extra]


def run(engine: Engine, wanted: list[tuple[list[int], SamplingParams]], watched: bool) -> dict[Request, list[int]]:
    requests = [engine.add_request(*each) for each in wanted]
    tokens = {}
    while engine.has_unfinished:
        for snapshot in engine.step(watched=watched):
            if snapshot.request.is_finished:
                tokens[snapshot.request] = snapshot.tokens
    assert list(tokens) == sorted(tokens, key=lambda request: request.num_steps)
    return {request: tokens[request] for request in requests}


@pytest.mark.parametrize("watched", [False, True])
def test_a_step_is_known_when_it_returns(watched: bool) -> None:
    engine = Engine(tiny_model(), EngineConfig(poison=True), graphs=Replayed())
    request = engine.add_request(prompt(1), SamplingParams(max_tokens=5))
    for step in range(1, 6):
        snapshots = engine.step(watched=watched)
        assert request.step == step
        assert [snapshot.request for snapshot in snapshots] == [request] * (watched or step == 5)
    assert not engine.has_unfinished


@pytest.mark.parametrize("short", ["num_next", "num_next_proposed", "num_next_tested"])
def test_a_step_with_too_little_room_ends_the_engine_and_names_what_was_short(short: str) -> None:
    engine = Engine(tiny_model(), EngineConfig(poison=True), graphs=Replayed())
    lock = LockParams(kl_threshold=0.0)
    request = engine.add_request(prompt(1, 40), SamplingParams(max_tokens=40, lock=lock))
    engine.step()
    setattr(request, short, 1)
    name = {"num_next": "rows", "num_next_proposed": "proposed", "num_next_tested": "tested"}[short]
    with pytest.raises(EngineError, match=rf"a step had room for 8 rows \({name}\) and needed \d+"):
        engine.step()
    with pytest.raises(EngineError, match="make a new one"):
        engine.step()


def test_guided_rows_that_do_not_fit_are_named_too() -> None:
    engine = Engine(tiny_model(), EngineConfig(poison=True), graphs=Replayed())
    plain = engine.add_request(prompt(1, 40), SamplingParams(max_tokens=8))
    guided = engine.add_request(prompt(2, 20), SamplingParams(max_tokens=8, cfg_scale=1.0))
    engine.step()
    # The sum stays right.
    plain.num_next, guided.num_next = plain.num_next + guided.num_next - 1, 1
    with pytest.raises(EngineError, match=r"a step had room for 8 rows \(guided\) and needed 28"):
        engine.step()


def test_a_run_walks_down_a_few_buckets_and_the_next_run_finds_them() -> None:
    replayed = Replayed()
    engine = Engine(tiny_model(), EngineConfig(poison=True), graphs=replayed)
    wanted = [(prompt(seed, 20), SamplingParams(max_tokens=40, lock=LockParams(kl_threshold=50.0))) for seed in (1, 2)]
    first = run(engine, wanted, watched=False)
    keys = set(replayed.functions)
    assert 6 <= len(keys) <= 24
    num_cleared = replayed.num_cleared
    again = run(engine, wanted, watched=False)
    assert list(again.values()) == list(first.values())
    assert set(replayed.functions) == keys
    assert replayed.num_cleared == num_cleared


def test_what_was_captured_goes_when_memory_moves() -> None:
    replayed = Replayed()
    engine = Engine(tiny_model(), EngineConfig(poison=True, max_batch_size=4), graphs=replayed)
    small = (prompt(1, 4), SamplingParams(max_tokens=4))
    alone = run(engine, [small], watched=False)
    num_cleared = replayed.num_cleared
    together = run(engine, [small, (prompt(2, 60), SamplingParams(max_tokens=20)), small], watched=False)
    assert replayed.num_cleared > num_cleared
    first, _, last = together.values()
    assert [first] == [last] == list(alone.values())


def test_what_was_captured_goes_when_only_keys_and_values_move() -> None:
    """A graph holds their address: replaying it would read and write memory that is given back."""
    replayed = Replayed()
    engine = Engine(tiny_model(), EngineConfig(poison=True, max_batch_size=1), graphs=replayed)
    run(engine, [(prompt(1, 4), SamplingParams(max_tokens=4))], watched=False)
    canvas, places, num_cleared = engine._batch.canvas, engine._batch.kv.num_places, replayed.num_cleared
    run(engine, [(prompt(2, 60), SamplingParams(max_tokens=20))], watched=False)
    assert engine._batch.canvas is canvas
    assert engine._batch.kv.num_places > places
    assert replayed.num_cleared > num_cleared


def test_a_request_that_fails_takes_nobody_with_it() -> None:
    model = tiny_model()
    model.embedding.weight[13] = torch.nan
    engine = Engine(model, EngineConfig(poison=True), graphs=Replayed())
    healthy = [token for token in prompt(2) if token != 13]
    wanted = [([13, 2, 3], SamplingParams(max_tokens=4)), (healthy, SamplingParams(max_tokens=4))]
    requests = [engine.add_request(*each) for each in wanted]
    final = {}
    while engine.has_unfinished:
        final.update({s.request: s.tokens for s in engine.step(watched=False) if s.request.is_finished})
    assert requests[0].failed
    assert final[requests[0]] == [13, 2, 3, *[MASK] * 4]
    assert not requests[1].failed
    assert MASK not in final[requests[1]]


def test_warming_up_captures_the_forwards_of_a_run_and_changes_nothing() -> None:
    replayed = Replayed()
    engine = Engine(tiny_model(), EngineConfig(poison=True), graphs=replayed)
    wanted = [(prompt(1, 20), SamplingParams(max_tokens=40, lock=LockParams(kl_threshold=50.0)))]
    expected = run(engine, wanted, watched=False)
    engine.warm_up(60)
    keys = set(replayed.functions)
    assert run(engine, wanted, watched=False).popitem()[1] == expected.popitem()[1]
    assert set(replayed.functions) == keys
