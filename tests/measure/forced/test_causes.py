"""Damage planted at a known position is found there, and only there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from surelock.measure.forced.causes import (
    LockedCanvas,
    candidate_locks,
    find_causes,
    find_causes_of_choice,
    lock_effects,
)
from surelock.measure.instrumented.forward import CanvasKV, Frozen, forward_canvases, relative_change
from surelock.measure.posteriors import compare, logits_of
from tests.tiny import MASK, tiny_model

MODEL = tiny_model()
INPUTS = torch.tensor([3, 9, 14, 5, MASK, 20, MASK, 8, MASK, 11])
FROZEN = torch.tensor([1, 1, 1, 1, 0, 1, 0, 1, 0, 0], dtype=torch.bool)
ROWS = torch.tensor([4, 6, 8])


def canvas_with(damage: dict[int, float]) -> LockedCanvas:
    """Locks whose keys and values are right, except that those at some positions are scaled and turned around."""
    fresh = forward_canvases(MODEL, INPUTS.unsqueeze(0))
    kv = []
    for layer in fresh.kv:
        keys, values = layer.keys.clone(), layer.values.clone()
        for position, size in damage.items():
            values[:, position] *= -size
            keys[:, position] *= size
        kv.append(CanvasKV(keys, values))
    locked = forward_canvases(MODEL, INPUTS.unsqueeze(0), Frozen(FROZEN.unsqueeze(0), kv))
    return LockedCanvas(
        model=MODEL,
        step=5,
        inputs=INPUTS,
        masked=INPUTS == MASK,
        frozen=FROZEN,
        kv=kv,
        fresh_kv=fresh.kv,
        logits=logits_of(MODEL, locked.hidden[0]),
        fresh_logits=logits_of(MODEL, fresh.hidden[0]),
        locked_at=torch.where(FROZEN, 2, 0),
    )


@pytest.mark.parametrize("position", [1, 5, 7])
def test_the_damaged_lock_is_the_cause(position: int) -> None:
    canvas = canvas_with({position: 4.0})
    flips = find_causes(canvas, ROWS)
    assert flips
    for flip in flips:
        assert flip.causes.locks == (position,)
        assert flip.causes.alone
        assert flip.causes.gains[0] > 0
        assert flip.fresh_token != flip.locked_token
        assert flip.kl > 0


def test_harm_is_where_the_damage_is() -> None:
    canvas = canvas_with({5: 4.0})
    effects = {effect.position: effect.harm for effect in lock_effects(canvas, FROZEN.nonzero().squeeze(1))}
    whole = float(compare(canvas.fresh_logits[ROWS], canvas.logits[ROWS], MASK).kl.sum())
    assert max(effects, key=lambda position: effects[position]) == 5
    assert effects[5] == pytest.approx(whole, rel=1e-3)
    # Set free in a damaged context, another lock is computed from it.
    assert all(abs(harm) < 0.5 * whole for position, harm in effects.items() if position != 5)


def test_locks_that_only_do_it_together_are_found_together() -> None:
    for size in (2.0, 3.0, 4.0, 6.0):
        canvas = canvas_with({1: size, 5: size, 7: size})
        together = [flip for flip in find_causes(canvas, ROWS) if not flip.causes.alone]
        if together:
            break
    else:
        pytest.fail("no size of damage makes a flip that takes two locks")
    for flip in together:
        assert {1, 5, 7} & set(flip.causes.locks)
        assert len(flip.causes.locks) > 1
        freed = torch.zeros_like(FROZEN)
        freed[list(flip.causes.locks)] = True
        (logits,) = canvas.variants(freed.unsqueeze(0), torch.tensor([flip.position]))
        fresh = canvas.fresh_logits[[flip.position]]
        assert not compare(fresh, logits[0], MASK).flipped.any()


def test_the_damaged_lock_causes_the_order() -> None:
    for position, size in ((1, 4.0), (5, 4.0), (7, 4.0), (5, 8.0)):
        canvas = canvas_with({position: size})
        confidence = [surest(logits[ROWS]) for logits in (canvas.fresh_logits, canvas.logits)]
        expected, chosen = (int(ROWS[int(values.argmax())]) for values in confidence)
        if expected != chosen:
            break
    else:
        pytest.fail("no damage changes which row is unmasked first")
    causes = find_causes_of_choice(canvas, expected, chosen)
    assert causes.locks[0] == position
    assert causes.alone
    assert causes.gains[0] > 0


def surest(logits: torch.Tensor) -> torch.Tensor:
    """Probability of the token each row would propose."""
    probability = logits.softmax(1)
    probability[:, MASK] = 0
    return probability.amax(1)


def test_no_damage_no_flip() -> None:
    canvas = canvas_with({})
    assert find_causes(canvas, ROWS) == []
    assert all(abs(effect.harm) < 1e-5 for effect in lock_effects(canvas, torch.tensor([0, 5])))


def test_the_locks_tried_first_are_the_latest_and_those_that_drifted() -> None:
    canvas = replace(canvas_with({5: 4.0}), locked_at=torch.tensor([1, 2, 3, 4, 0, 1, 0, 9, 0, 0]))
    assert set(candidate_locks(canvas, 2).tolist()) == {7, 5}
    assert sorted(candidate_locks(canvas, 99).tolist()) == FROZEN.nonzero().squeeze(1).tolist()


def test_the_cause_is_found_beyond_those_tried_alone() -> None:
    # Recency puts 7 first and drift 5; the damage at 1 is found only by setting more and more locks free.
    canvas = replace(canvas_with({1: 4.0}), locked_at=torch.tensor([1, 2, 3, 4, 0, 8, 0, 9, 0, 0]))
    flips = find_causes(canvas, ROWS, max_locks=1)
    assert flips
    for flip in flips:
        assert not flip.causes.alone
        assert 1 in flip.causes.locks


def test_relative_change_is_over_all_heads() -> None:
    old, new = torch.zeros(1, 2, 2, 3), torch.ones(1, 2, 2, 3)
    change = relative_change([CanvasKV(new, 3 * new)], [CanvasKV(new, new)])
    torch.testing.assert_close(change[0], torch.tensor([[[0.0, 0.0]], [[2.0, 2.0]]]))
    assert relative_change([CanvasKV(new, new)], [CanvasKV(old, old)]).isfinite().all()
