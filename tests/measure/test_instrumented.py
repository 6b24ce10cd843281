"""The instrumented decoder gives the oracle's tokens, locks and logits, for many canvases at once."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from surelock.decoding.oracle import OracleResult, _forward, _Stream, oracle_decode
from surelock.errors import NonFiniteLogitsError, ParameterError
from surelock.measure.instrumented import InstrumentedDecoder, MeasuredState, RefreshEvery, group_canvases
from surelock.models.transformer import Transformer
from surelock.ops.head_logits import head_logits
from surelock.params import LockParams, SamplingParams
from tests.tiny import MASK, tiny_model

MARGIN = 2e-4
# Thresholds at which random weights lock some rows and not others.
OURS, PAPER = LockParams(kl_threshold=0.2), LockParams.paper(0.5)


@cache
def model(seed: int = 0) -> Transformer:
    return tiny_model(seed, qk_norm=seed % 2 == 1)


def prompts(num: int, length: int, seed: int = 0) -> list[list[int | None]]:
    generator = torch.Generator().manual_seed(seed)
    ids: list[list[int | None]] = torch.randint(0, MASK, (num, length), generator=generator).tolist()
    return ids


def oracle_of(canvas: list[int | None], params: SamplingParams, seed: int = 0) -> OracleResult:
    return oracle_decode(model(), canvas, params, mask_token_id=MASK, seed=seed)


@pytest.mark.parametrize(
    ("lock", "changes"),
    [
        (None, {}),
        (OURS, {}),
        (PAPER, {}),
        (OURS, {"steps": 6}),
        (PAPER, {"steps": 7, "block_length": 5}),
        (OURS, {"temperature": 0.8, "unmasking": "random"}),
        (replace(OURS, prompt_lock_step=1, kl_both_visible=True), {"steps": 20, "temperature": 0.7}),
        (replace(PAPER, gate_scope="active"), {"cfg_scale": 1.5, "block_length": 4}),
        (replace(PAPER, gate_scope="kl_passing", min_visible_steps=1), {"allow_mask": True}),
        (replace(OURS, kl_threshold=-1.0, prompt_lock_step=1), {"steps": 3}),
    ],
)
def test_tokens_locks_and_rows_equal_the_oracle(lock: LockParams | None, changes: dict[str, object]) -> None:
    params = SamplingParams(max_tokens=12, lock=lock, **changes)  # type: ignore[arg-type]
    canvases = prompts(8, 7)
    for index in range(4):
        canvases[index][2] = canvases[index][5] = None
    num_compared, num_locked = 0, 0
    for group in group_canvases(canvases, 3):
        found = InstrumentedDecoder(model()).run([canvases[i] for i in group], params, seeds=group)
        for row, index in enumerate(group):
            expected = oracle_of(canvases[index], params, seed=index)
            if expected.margin < MARGIN:
                continue
            assert found.tokens[row].tolist() == expected.tokens
            assert found.locked_at[row].tolist() == [at or 0 for at in expected.locked_at]
            assert found.num_active[:, row].tolist() == expected.active_rows
            num_compared += 1
            num_locked += any(expected.locked_at)
    assert num_compared >= 3
    assert (num_locked > 0) == (lock is not None and not lock.is_never)


def test_canvases_are_grouped_by_length_and_gaps() -> None:
    canvases: list[list[int | None]] = [[1], [1, 2], [3], [1, None], [4], [5, 6]]
    assert group_canvases(canvases) == [[3], [1, 5], [0, 2, 4]]
    assert group_canvases(canvases, 2) == [[3], [1, 5], [0, 2], [4]]


@pytest.mark.parametrize("lock", [OURS, PAPER, replace(OURS, refresh=None)])
def test_masked_rows_have_the_logits_of_a_locked_run(lock: LockParams) -> None:
    """The oracle's own forward, with nothing computed for locked rows, of the canvases and locks of a dense run."""
    params = SamplingParams(max_tokens=14, lock=lock)
    num_read = 0
    stream: _Stream | None = None
    for step in InstrumentedDecoder(model()).steps(prompts(1, 6), params):
        stream = stream or _Stream(step.inputs[0], [None] * len(model().layers))
        stream.tokens = step.inputs[0]
        computed = (~step.locked | step.refreshed)[0]
        hidden, stream.cache = _forward(model(), stream, computed)
        expected = head_logits(hidden, model().lm_head)
        torch.testing.assert_close(step.logits[0][computed], expected, atol=2e-5, rtol=1e-5)
        num_read += int(step.locked[0].sum())
    assert num_read > 20


def test_the_refresh_of_the_rule_is_that_of_the_oracle() -> None:
    lock = LockParams(kl_threshold=0.5, refresh=3)
    params = SamplingParams(max_tokens=16, lock=lock)
    (canvas,) = prompts(1, 6)
    run = InstrumentedDecoder(model()).run([canvas], params)
    oracle = oracle_decode(model(), canvas, params, mask_token_id=MASK)
    assert oracle.margin > 1e-3
    assert run.tokens[0].tolist() == oracle.tokens
    assert [step or None for step in run.locked_at[0].tolist()] == oracle.locked_at
    plain = InstrumentedDecoder(model()).run([canvas], replace(params, lock=replace(lock, refresh=None)))
    assert not torch.equal(run.tokens, plain.tokens) or not torch.equal(run.locked_at, plain.locked_at)


def test_teacher_forcing_repeats_a_run() -> None:
    params = SamplingParams(max_tokens=16, lock=None)
    decoder, canvases = InstrumentedDecoder(model()), prompts(3, 5)
    free = decoder.run(canvases, params)
    locked_steps = list(decoder.steps(canvases, replace(params, lock=PAPER), forced=free))
    again = decoder.run(canvases, replace(params, lock=PAPER), forced=free)
    own = decoder.run(canvases, replace(params, lock=PAPER))
    assert not torch.equal(own.tokens, free.tokens)
    assert torch.equal(again.tokens, free.tokens)
    assert torch.equal(again.committed_at, free.committed_at)
    for t, step in enumerate(locked_steps, 1):
        assert torch.equal(step.committed, free.committed_at == t)
    assert int((again.locked_at > 0).sum()) > 0


def test_a_rule_that_repeats_the_locks_of_a_run_repeats_the_run() -> None:
    params = SamplingParams(max_tokens=16, lock=PAPER)
    decoder, canvases = InstrumentedDecoder(model()), prompts(2, 5)
    first = decoder.run(canvases, params)
    second = decoder.run(canvases, params, rule=lambda state: first.locked_at == state.step)
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.locked_at, second.locked_at)
    assert torch.equal(first.age_at_lock, second.age_at_lock)


def test_ghosts_have_age_zero_and_prompts_have_seen_every_step() -> None:
    record = InstrumentedDecoder(model()).run(prompts(4, 5), SamplingParams(max_tokens=16, lock=LockParams.paper(50.0)))
    locked = record.locked_at > 0
    age = torch.where(record.committed_at == 0, record.locked_at, record.locked_at - record.committed_at)
    assert torch.equal(record.age_at_lock[locked], age[locked])
    assert bool((record.age_at_lock[~locked] == -1).all())
    assert int((record.age_at_lock == 0).sum()) > 0


def test_a_callable_rule_locks_candidates_only_and_never_on_the_last_step() -> None:
    def everything(state: MeasuredState) -> Tensor:
        assert state.step < state.num_steps
        return torch.ones_like(state.masked)

    decoder, canvases = InstrumentedDecoder(model()), prompts(2, 4)
    steps = list(decoder.steps(canvases, SamplingParams(max_tokens=6), rule=everything))
    assert bool(steps[0].newly_locked[:, :4].all())
    for step in steps:
        assert not bool((step.newly_locked & step.masked & ~step.committed).any())
    assert not bool(steps[-1].newly_locked.any())
    assert int(steps[-1].num_active[0]) == 1


def test_refreshing_every_step_is_not_locking() -> None:
    params = SamplingParams(max_tokens=12, lock=PAPER)
    decoder, canvases = InstrumentedDecoder(model()), prompts(2, 6)
    free = list(decoder.steps(canvases, replace(params, lock=None)))
    fresh = list(decoder.steps(canvases, params, refresh=RefreshEvery(1)))
    for a, b in zip(free, fresh, strict=True):
        torch.testing.assert_close(a.logits, b.logits)
        assert b.num_active.tolist() == [18, 18]
    assert any(bool(step.locked.any()) for step in fresh)


def test_refresh_changes_what_others_read_from_that_step_on() -> None:
    params = SamplingParams(max_tokens=12, lock=PAPER)
    decoder = InstrumentedDecoder(model(), keep_keys_values=True)
    steps = list(decoder.steps(prompts(2, 6), params, refresh=RefreshEvery(4)))
    assert [bool(step.refreshed.any()) for step in steps] == [t % 4 == 0 for t in range(1, 13)]
    for before, after in itertools.pairwise(steps):
        assert before.kv is not None
        assert after.kv is not None
        assert after.fresh_kv is not None
        old, new, fresh = before.kv[1], after.kv[1], after.fresh_kv[1]
        frozen = after.locked & ~after.refreshed
        assert torch.equal(new.keys[frozen], old.keys[frozen])
        assert torch.equal(new.values[frozen], old.values[frozen])
        assert torch.equal(new.keys[~frozen], fresh.keys[~frozen])
        assert after.num_active.tolist() == (~frozen).sum(1).tolist()


def test_age_counts_the_forwards_that_computed_a_position() -> None:
    params = SamplingParams(max_tokens=12, lock=replace(OURS, refresh=4))
    age = None
    for step in InstrumentedDecoder(model()).steps(prompts(2, 6), params):
        computed = (~step.locked | step.refreshed) & ~step.masked
        age = computed.int() if age is None else age + computed
        assert torch.equal(step.age, age.int())
    assert age is not None
    assert len(set(age.flatten().tolist())) > 3


def test_unlocked_positions_are_computed_again_and_cannot_lock_at_once() -> None:
    def all_locked_at_eight(state: MeasuredState) -> Tensor:
        return state.locked if state.step == 8 else torch.zeros_like(state.locked)

    params = SamplingParams(max_tokens=12, lock=LockParams(kl_threshold=50.0))
    steps = list(InstrumentedDecoder(model()).steps(prompts(1, 6), params, unlock=all_locked_at_eight))
    seventh, eighth, ninth, tenth = steps[6:10]
    assert int(seventh.locked.sum()) > 6
    assert torch.equal(eighth.unlocked, eighth.locked)
    assert not bool((ninth.locked & eighth.unlocked).any())
    assert not bool((ninth.newly_locked & eighth.unlocked).any())
    assert bool((tenth.newly_locked & eighth.unlocked).any())


def test_drift_is_that_of_the_keys_and_values() -> None:
    decoder = InstrumentedDecoder(model(), measure_drift=True, keep_keys_values=True)
    steps = list(decoder.steps(prompts(2, 6), SamplingParams(max_tokens=8, lock=PAPER)))
    assert steps[0].drift is not None
    assert bool(steps[0].drift.keys_step.isnan().all())
    for before, after in itertools.pairwise(steps):
        assert after.drift is not None
        assert before.fresh_kv is not None
        assert after.kv is not None
        assert after.fresh_kv is not None
        for layer, (old, read, new) in enumerate(zip(before.fresh_kv, after.kv, after.fresh_kv, strict=True)):
            moved = (new.keys - old.keys).flatten(2).norm(dim=2) / old.keys.flatten(2).norm(dim=2)
            torch.testing.assert_close(after.drift.keys_step[layer], moved)
            stale = (new.values - read.values).flatten(2).norm(dim=2) / read.values.flatten(2).norm(dim=2)
            found = after.drift.values_frozen[layer]
            assert torch.equal(found.isnan(), ~after.locked)
            torch.testing.assert_close(found[after.locked], stale[after.locked])


def test_measurements_are_those_of_the_logits() -> None:
    steps = list(InstrumentedDecoder(model()).steps(prompts(2, 6), SamplingParams(max_tokens=5, lock=None)))
    assert bool(steps[0].kl.isinf().all())
    for before, after in itertools.pairwise(steps):
        p, q = after.logits.double().log_softmax(2), before.logits.double().log_softmax(2)
        torch.testing.assert_close(after.kl.double(), (p.exp() * (p - q)).sum(2), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(after.uncertainty.double(), 1 - p.exp().amax(2), atol=1e-6, rtol=1e-4)
        others = after.logits.clone()
        others[..., MASK] = -torch.inf
        assert torch.equal(after.argmax, others.argmax(2))


def test_half_precision_runs_and_measures_in_float32() -> None:
    decoder = InstrumentedDecoder(tiny_model(0, torch.bfloat16))
    steps = list(decoder.steps(prompts(2, 6), SamplingParams(max_tokens=5)))
    assert steps[-1].logits.dtype == torch.float32
    assert not bool((steps[-1].tokens == MASK).any())


def test_batch_size_follows_the_memory() -> None:
    decoder = InstrumentedDecoder(model())
    assert decoder.batch_size(10, 1) == 1
    assert decoder.batch_size(10, 1 << 30) >= 2 * decoder.batch_size(40, 1 << 30) > 2


@pytest.mark.parametrize(
    ("canvases", "changes", "arguments", "message"),
    [
        ([], {}, {}, "0 kinds"),
        ([[1], [1, 2]], {}, {}, "2 kinds"),
        ([[1, None], [1, 2]], {}, {}, "2 kinds"),
        ([[1]], {"max_tokens": 96}, {}, "limit is 96"),
        ([[1]], {}, {"seeds": [1, 2]}, "2 entries"),
    ],
)
def test_canvases_that_do_not_belong_together_are_refused(
    canvases: list[list[int | None]], changes: dict[str, int], arguments: dict[str, list[int]], message: str
) -> None:
    params = SamplingParams(**{"max_tokens": 4, **changes})  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=message):
        InstrumentedDecoder(model()).steps(canvases, params, seeds=arguments.get("seeds", 0))


def test_a_record_of_other_canvases_is_refused() -> None:
    decoder, params = InstrumentedDecoder(model()), SamplingParams(max_tokens=4)
    other = decoder.run(prompts(1, 3), params)
    with pytest.raises(ParameterError, match="forced"):
        decoder.steps(prompts(2, 3), params, forced=other)


def test_logits_that_are_not_finite_are_an_error() -> None:
    broken = tiny_model()
    broken.layers[0].down.weight.fill_(torch.nan)  # type: ignore[operator, union-attr]
    with pytest.raises(NonFiniteLogitsError, match="step 1"):
        InstrumentedDecoder(broken).run(prompts(1, 3), SamplingParams(max_tokens=2))
