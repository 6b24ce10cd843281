"""Damage planted at a known position is found there, and only there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from surelock.measure.dense_layers import logits_of
from surelock.measure.twin.compare import compare
from surelock.measure.twin.dense_forward import DenseKV, Frozen, dense_forward
from surelock.measure.twin.guilty import (
    Scene,
    candidate_locks,
    find_guilty,
    find_guilty_of_choice,
    lock_effects,
    relative_change,
)
from tests.tiny import MASK, tiny_model

MODEL = tiny_model()
INPUTS = torch.tensor([3, 9, 14, 5, MASK, 20, MASK, 8, MASK, 11])
FROZEN = torch.tensor([1, 1, 1, 1, 0, 1, 0, 1, 0, 0], dtype=torch.bool)
ROWS = torch.tensor([4, 6, 8])


def scene_with(damage: dict[int, float]) -> Scene:
    """Locks whose keys and values are right, except that those at some positions are scaled and turned around."""
    fresh = dense_forward(MODEL, INPUTS.unsqueeze(0))
    kv = []
    for layer in fresh.kv:
        keys, values = layer.keys.clone(), layer.values.clone()
        for position, size in damage.items():
            values[:, position] *= -size
            keys[:, position] *= size
        kv.append(DenseKV(keys, values))
    locked = dense_forward(MODEL, INPUTS.unsqueeze(0), Frozen(FROZEN.unsqueeze(0), kv))
    return Scene(
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
def test_the_damaged_lock_is_guilty(position: int) -> None:
    scene = scene_with({position: 4.0})
    flips = find_guilty(scene, ROWS)
    assert flips
    for flip in flips:
        assert flip.blame.guilty == (position,)
        assert flip.blame.alone
        assert flip.blame.gains[0] > 0
        assert flip.fresh_token != flip.locked_token
        assert flip.kl > 0


def test_harm_is_where_the_damage_is() -> None:
    scene = scene_with({5: 4.0})
    effects = {effect.position: effect.harm for effect in lock_effects(scene, FROZEN.nonzero().squeeze(1))}
    whole = float(compare(scene.fresh_logits[ROWS], scene.logits[ROWS], MASK).kl.sum())
    assert max(effects, key=lambda position: effects[position]) == 5
    assert effects[5] == pytest.approx(whole, rel=1e-3)
    # Set free in a damaged context, another lock is computed from it.
    assert all(abs(harm) < 0.5 * whole for position, harm in effects.items() if position != 5)


def test_locks_that_only_do_it_together_are_found_together() -> None:
    for size in (2.0, 3.0, 4.0, 6.0):
        scene = scene_with({1: size, 5: size, 7: size})
        together = [flip for flip in find_guilty(scene, ROWS) if not flip.blame.alone]
        if together:
            break
    else:
        pytest.fail("no size of damage makes a flip that takes two locks")
    for flip in together:
        assert {1, 5, 7} & set(flip.blame.guilty)
        assert len(flip.blame.guilty) > 1
        freed = torch.zeros_like(FROZEN)
        freed[list(flip.blame.guilty)] = True
        (logits,) = scene.variants(freed.unsqueeze(0), torch.tensor([flip.position]))
        fresh = scene.fresh_logits[[flip.position]]
        assert not compare(fresh, logits[0], MASK).flipped.any()


def test_the_damaged_lock_is_guilty_of_the_order() -> None:
    for position, size in ((1, 4.0), (5, 4.0), (7, 4.0), (5, 8.0)):
        scene = scene_with({position: size})
        confidence = [surest(logits[ROWS]) for logits in (scene.fresh_logits, scene.logits)]
        expected, chosen = (int(ROWS[int(values.argmax())]) for values in confidence)
        if expected != chosen:
            break
    else:
        pytest.fail("no damage changes which row is unmasked first")
    blame = find_guilty_of_choice(scene, expected, chosen)
    assert blame.guilty[0] == position
    assert blame.alone
    assert blame.gains[0] > 0


def surest(logits: torch.Tensor) -> torch.Tensor:
    """Probability of the token each row would propose."""
    probability = logits.softmax(1)
    probability[:, MASK] = 0
    return probability.amax(1)


def test_no_damage_no_flip() -> None:
    scene = scene_with({})
    assert find_guilty(scene, ROWS) == []
    assert all(abs(effect.harm) < 1e-5 for effect in lock_effects(scene, torch.tensor([0, 5])))


def test_the_locks_tried_first_are_the_latest_and_those_that_drifted() -> None:
    scene = replace(scene_with({5: 4.0}), locked_at=torch.tensor([1, 2, 3, 4, 0, 1, 0, 9, 0, 0]))
    assert set(candidate_locks(scene, 2).tolist()) == {7, 5}
    assert sorted(candidate_locks(scene, 99).tolist()) == FROZEN.nonzero().squeeze(1).tolist()


def test_the_guilty_lock_is_found_beyond_those_tried_alone() -> None:
    # Recency puts 7 first and drift 5; the damage at 1 is found only by setting more and more locks free.
    scene = replace(scene_with({1: 4.0}), locked_at=torch.tensor([1, 2, 3, 4, 0, 8, 0, 9, 0, 0]))
    flips = find_guilty(scene, ROWS, max_locks=1)
    assert flips
    for flip in flips:
        assert not flip.blame.alone
        assert 1 in flip.blame.guilty


def test_relative_change_is_over_all_heads() -> None:
    old, new = torch.zeros(1, 2, 2, 3), torch.ones(1, 2, 2, 3)
    change = relative_change([DenseKV(new, 3 * new)], [DenseKV(new, new)])
    torch.testing.assert_close(change[0], torch.tensor([[[0.0, 0.0]], [[2.0, 2.0]]]))
    assert relative_change([DenseKV(new, new)], [DenseKV(old, old)]).isfinite().all()
