"""The engine equals the oracle token for token in float32, whatever shares its batch."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from surelock.config import EngineConfig
from surelock.decoding.oracle import oracle_decode
from surelock.decoding.selection import ActiveShare
from surelock.engine.engine import Engine
from surelock.engine.request import Request
from surelock.engine.snapshot import Snapshot
from surelock.models.transformer import Transformer
from surelock.params import LockParams, SamplingParams
from tests.engine.replayed import Replayed
from tests.tiny import MASK, tiny_model

# Decisions nearer than this to falling otherwise are left out: rounding may take them either way.
MARGIN = 2e-4


@cache
def _model(seed: int) -> Transformer:
    return tiny_model(seed, tie_embeddings=seed % 2 == 1, scale_logits=False, qk_norm=seed % 3 == 1)


def locks_of(*thresholds: float) -> st.SearchStrategy[LockParams]:
    """Rules of these thresholds and any other numbers."""
    return st.builds(
        LockParams,
        kl_threshold=st.sampled_from(thresholds),
        confidence_percentile=st.sampled_from([None, None, 0.0, 20.0, 50.0, 90.0, 100.0]),
        gate_scope=st.sampled_from(["candidates", "active", "kl_passing"]),
        min_visible_steps=st.integers(0, 3),
        kl_both_visible=st.booleans(),
        prompt_lock_step=st.sampled_from([None, None, 1, 2, 5]),
        refresh=st.sampled_from([None, None, 1, 2, 3, 5]),
    )


locks = locks_of(-1.0, 5e-4, 1e-2, 0.1, 0.5, 2.0, 50.0)


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int | None], SamplingParams]:
    canvas: list[int | None] = [*draw(st.lists(st.integers(0, MASK - 1), min_size=0, max_size=20))]
    if canvas and draw(st.sampled_from([False, True])):
        for position in draw(st.sets(st.integers(0, len(canvas) - 1), max_size=6)):
            canvas[position] = None
    max_tokens = draw(st.integers(0 if None in canvas else 1, 20))
    params = SamplingParams(
        max_tokens=max_tokens,
        steps=draw(st.none() | st.integers(1, 28)),
        block_length=draw(st.none() | st.integers(1, 24)),
        temperature=draw(st.sampled_from([0.0, 0.0, 0.0, 0.8])),
        cfg_scale=draw(st.sampled_from([0.0, 0.0, 0.0, 1.5])),
        unmasking=draw(st.sampled_from(["low_confidence", "low_confidence", "random"])),
        seed=draw(st.integers(0, 2**63 - 1)),
        allow_mask=draw(st.sampled_from([False, False, False, True])),
        lock=draw(st.none() if draw(st.integers(0, 5)) == 0 else locks),
    )
    return canvas, params


def run(
    model: Transformer,
    wanted: list[tuple[list[int | None], SamplingParams]],
    max_batch_size: int,
    graphs: Replayed | None,
) -> dict[Request, list[Snapshot]]:
    """All snapshots of every request, or with graphs only the last; unwritten memory is NaN."""
    engine = Engine(model, EngineConfig(max_batch_size=max_batch_size, poison=True), graphs=graphs)
    seen: dict[Request, list[Snapshot]] = {engine.add_request(canvas, params): [] for canvas, params in wanted}
    while engine.has_unfinished:
        for snapshot in engine.step(watched=graphs is None):
            seen[snapshot.request].append(snapshot)
    return seen


# What hypothesis draws depends on its version: these lock whatever it draws.
LOCKING: list[tuple[list[int | None], SamplingParams]] = [
    (
        [(7 * number + position) % MASK for position in range(4 + number)],
        SamplingParams(max_tokens=8, seed=0, lock=LockParams(kl_threshold=50.0)),
    )
    for number in range(10)
]


class Compared:
    """How many requests were compared, and how many of them locked anything."""

    num_requests = 0
    num_locking = 0


# Tied embeddings and not, with norms of queries and keys and without.
@pytest.mark.parametrize("seed", [0, 1, 3])
@pytest.mark.parametrize("num_examples", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_tokens_locks_and_rows_equal_the_oracle(seed: int, num_examples: int) -> None:
    model, compared = _model(seed), Compared()

    # A step takes as long for one request as for many.
    @settings(max_examples=num_examples, suppress_health_check=[HealthCheck.too_slow])
    @given(wanted=st.lists(requests(), min_size=1, max_size=12), max_batch_size=st.integers(1, 8))
    @example(wanted=LOCKING, max_batch_size=3)
    def check(wanted: list[tuple[list[int | None], SamplingParams]], max_batch_size: int) -> None:
        plain = run(model, wanted, max_batch_size, None)
        padded = run(model, wanted, max_batch_size, Replayed())
        assert not any(request.failed for request in (*plain, *padded))
        for *both, (canvas, params) in zip(plain.items(), padded.items(), wanted, strict=True):
            expected = oracle_decode(model, canvas, params, mask_token_id=MASK, seed=params.seed or 0)
            if expected.margin < MARGIN:
                continue
            for request, snapshots in both:
                assert snapshots[-1].tokens == expected.tokens
                assert snapshots[-1].locked_at == expected.locked_at
                assert request.active_rows == expected.active_rows
            compared.num_requests += 1
            compared.num_locking += any(expected.locked_at)

    check()
    # Near-ties must not filter away what the comparison is for.
    assert compared.num_requests >= 35
    assert compared.num_locking >= 15


@st.composite
def shared_requests(draw: st.DrawFn) -> tuple[list[int | None], SamplingParams]:
    """One block, at most four tokens a step: what `ActiveShare` can serve."""
    canvas: list[int | None] = [*draw(st.lists(st.integers(0, MASK - 1), min_size=0, max_size=12))]
    max_tokens = draw(st.integers(1, 16))
    params = SamplingParams(
        max_tokens=max_tokens,
        steps=draw(st.integers(-(-max_tokens // 4), max_tokens + 2)),
        seed=0,
        # Rows that a share leaves out have nothing to compare with, so only loose rules lock often.
        lock=draw(locks_of(0.5, 2.0, 50.0)),
    )
    return canvas, params


def run_share(
    model: Transformer, wanted: list[tuple[list[int | None], SamplingParams]], share: float, graphs: Replayed | None
) -> dict[Request, Snapshot]:
    """The last snapshot of every request."""
    engine = Engine(model, EngineConfig(max_batch_size=6, poison=True), selector=ActiveShare(share), graphs=graphs)
    requests = [engine.add_request(canvas, params) for canvas, params in wanted]
    last: dict[Request, Snapshot] = {}
    while engine.has_unfinished:
        last |= {snapshot.request: snapshot for snapshot in engine.step(watched=graphs is None)}
    return {request: last[request] for request in requests}


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("num_examples", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_share_of_the_rows_equals_the_oracle(share: float, num_examples: int) -> None:
    model, compared = _model(1), Compared()

    @settings(max_examples=num_examples, suppress_health_check=[HealthCheck.too_slow])
    @given(wanted=st.lists(shared_requests(), min_size=1, max_size=10))
    @example(wanted=LOCKING)
    def check(wanted: list[tuple[list[int | None], SamplingParams]]) -> None:
        plain, padded = (run_share(model, wanted, share, graphs) for graphs in (None, Replayed()))
        for *both, (canvas, params) in zip(plain.items(), padded.items(), wanted, strict=True):
            assert not any(any(last.masked) for _, last in both)
            expected = oracle_decode(model, canvas, params, mask_token_id=MASK, share=share)
            if expected.margin < MARGIN:
                continue
            for request, last in both:
                assert last.tokens == expected.tokens
                assert last.locked_at == expected.locked_at
                assert request.active_rows == expected.active_rows
            compared.num_requests += 1
            compared.num_locking += any(expected.locked_at)

    check()
    assert compared.num_requests >= 20
    assert compared.num_locking >= 5
