"""Runs side by side read the same tokens, and differ by frozen keys and values alone."""

from __future__ import annotations

import torch

from surelock.measure.forced.lockstep import self_paced, teacher_forced
from surelock.measure.instrumented import InstrumentedDecoder
from surelock.measure.instrumented.forward import Frozen, forward_canvases
from surelock.measure.posteriors import compare, logits_of
from surelock.params import LockParams, SamplingParams
from tests.tiny import MASK, tiny_model

PROMPTS = [[1, 2, 3], [4, 5, 6]]
PARAMS = SamplingParams(max_tokens=10)
NEVER = LockParams(kl_threshold=-1.0)
LITERAL = LockParams(kl_threshold=1e6, min_visible_steps=0, refresh=None)


def test_a_rule_that_never_locks_changes_nothing_at_all() -> None:
    for paired in teacher_forced(tiny_model(), PROMPTS, PARAMS, {"never": NEVER}):
        found = compare(paired.fresh_logits[paired.masked], paired.sides["never"].step.logits[paired.masked], MASK)
        assert found.kl.eq(0).all()
        assert not found.flipped.any()


def test_every_run_repeats_the_decisions_of_the_one_without_locks() -> None:
    model = tiny_model()
    record = InstrumentedDecoder(model).run(PROMPTS, SamplingParams(max_tokens=10, lock=None))
    last = None
    for last in teacher_forced(model, PROMPTS, PARAMS, {"literal": LITERAL, "default": LockParams()}):
        for side in last.sides.values():
            assert torch.equal(side.step.inputs, last.inputs)
            assert torch.equal(side.step.tokens, last.tokens)
        assert torch.equal(last.committed, record.committed_at == last.step)
        assert not (last.given & last.masked).any()
    assert last is not None
    assert torch.equal(last.tokens, record.tokens)


def test_a_lock_is_known_by_its_step_and_its_age() -> None:
    ages = set()
    for paired in teacher_forced(tiny_model(), PROMPTS, PARAMS, {"literal": LITERAL}):
        side = paired.sides["literal"]
        assert torch.equal(side.frozen, side.locks.at > 0)
        assert (side.since[side.frozen] > 0).all()
        assert side.locks.kl[side.frozen].isfinite().all()
        ages |= set(side.locks.age[side.frozen & ~paired.given].tolist())
    # Everything stable at once: a position locks as it is unmasked, except in step 1, which has no divergence.
    assert ages == {0, 1}


def test_a_refreshed_position_is_not_frozen() -> None:
    rule = LockParams(kl_threshold=1e6, min_visible_steps=0, refresh=3)
    refreshed = 0
    for paired in teacher_forced(tiny_model(), PROMPTS, PARAMS, {"refreshed": rule}):
        side = paired.sides["refreshed"]
        locked = side.locks.at > 0
        expected = torch.zeros_like(locked) if paired.step % 3 == 0 else locked
        assert torch.equal(side.frozen, expected)
        refreshed += int((locked & ~side.frozen).sum())
    assert refreshed > 0


def test_freezing_what_is_frozen_gives_the_locked_run_again() -> None:
    model = tiny_model()
    for paired in teacher_forced(model, PROMPTS, PARAMS, {"literal": LITERAL}):
        side = paired.sides["literal"]
        again = paired.logits_with(Frozen(side.frozen, side.kv))
        torch.testing.assert_close(again, side.step.logits[paired.masked])
        free = paired.logits_with(Frozen(torch.zeros_like(side.frozen), side.kv))
        torch.testing.assert_close(free, paired.fresh_logits[paired.masked])
        in_no_layer = paired.logits_with(Frozen(side.frozen, side.kv, []))
        torch.testing.assert_close(in_no_layer, paired.fresh_logits[paired.masked])


def test_a_run_at_its_own_pace_is_compared_on_its_own_canvas() -> None:
    model = tiny_model()
    params = SamplingParams(max_tokens=10, lock=LITERAL)
    record = InstrumentedDecoder(model).run(PROMPTS, params)
    last = None
    for last in self_paced(model, PROMPTS, params):
        plain = logits_of(model, forward_canvases(model, last.inputs).hidden)
        torch.testing.assert_close(last.fresh_logits, plain)
        assert torch.equal(last.committed, record.committed_at == last.step)
    assert last is not None
    assert torch.equal(last.tokens, record.tokens)


def test_the_mask_is_never_proposed() -> None:
    logits = torch.zeros(3, 5)
    logits[:, 2] = 9.0
    logits[0, 4], logits[1, 1], logits[2, 0] = 3.0, 3.0, 3.0
    assert compare(logits, logits, 2).reference_token.tolist() == [4, 1, 0]
    assert compare(logits, logits, 4).reference_token.tolist() == [2, 2, 2]
    assert compare(logits, -logits, 0).other_token.tolist() == [1, 3, 1]
