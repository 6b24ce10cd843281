"""A share of the active rows: which ones, and that every position gets its turn."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surelock.decoding.canvases import Canvases, PositionState
from surelock.decoding.selection import ActiveShare

M, U, L = PositionState.MASKED, PositionState.UNMASKED, PositionState.LOCKED


def canvas(states: Sequence[int], computed_at: Sequence[int], age: Sequence[int] | None = None) -> Canvases:
    own = Canvases(4, dtype=torch.float32, device=torch.device("cpu"), num_slots=1, length=len(states))
    own.state[0] = torch.tensor([int(state) for state in states], dtype=torch.uint8)
    own.computed_at[0] = torch.tensor(computed_at, dtype=torch.int32)
    own.age[0] = torch.tensor([1] * len(states) if age is None else age, dtype=torch.int32)
    return own


def selected(share: ActiveShare, own: Canvases) -> list[int]:
    return share.select(own)[0].nonzero().squeeze(1).tolist()


def test_everything_at_first() -> None:
    assert selected(ActiveShare(0.5), canvas([U, U, M, M], [-1] * 4)) == [0, 1, 2, 3]


def test_longest_ago_first_and_the_leftmost_of_equals() -> None:
    assert selected(ActiveShare(0.5), canvas([U, U, U, U], [3, 2, 3, 1])) == [1, 3]
    assert selected(ActiveShare(0.5), canvas([U, U, U, U], [3, 3, 3, 3])) == [0, 1]


def test_a_new_token_comes_first() -> None:
    assert selected(ActiveShare(0.3), canvas([U, U, U], [1, 2, 3], age=[1, 1, 0])) == [2]


def test_masks_and_tokens_apart_rounded_up() -> None:
    masked = [4 + index for index in range(10)]
    own = canvas([U] * 4 + [M] * 10, [5] * 14)
    assert selected(ActiveShare(0.5), own) == [0, 1, *masked[:5]]
    assert selected(ActiveShare(0.55), own) == [0, 1, 2, *masked[:6]]


def test_few_masks_are_all_computed() -> None:
    assert selected(ActiveShare(0.5), canvas([M] * 4, [5] * 4)) == [0, 1, 2, 3]
    assert len(selected(ActiveShare(0.5, max_quota=1), canvas([M] * 4, [5] * 4))) == 2


@given(
    cells=st.lists(st.tuples(st.sampled_from([M, U, L]), st.integers(-1, 9)), min_size=1, max_size=24),
    share=st.sampled_from([0.1, 0.5, 0.8, 1.0]),
)
def test_a_subset_of_the_active_of_the_right_size(cells: list[tuple[int, int]], share: float) -> None:
    states, computed_at = [state for state, _ in cells], [at for _, at in cells]
    own = canvas(states, computed_at)
    chosen = ActiveShare(share).select(own)
    assert not (chosen & ~own.active).any()
    assert chosen[own.active & (own.computed_at < 0)].all()
    for state in (M, U):
        num = states.count(state)
        assert int((chosen[0] & (own.state[0] == int(state))).sum()) >= min(num, -(-num * share // 1))
    if share == 1:
        assert torch.equal(chosen, own.active)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_every_position_gets_its_turn(share: float) -> None:
    own = canvas([U] * 10, [0] * 10)
    for step in range(1, 6):
        own.computed_at[ActiveShare(share).select(own)] = step
    assert (own.computed_at > 0).all()
