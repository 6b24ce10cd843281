"""Algorithm 1 against a scripted model: hidden rows are the logits themselves, and the script says what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from surelock.decoding.canvases import Canvases, PositionState
from surelock.decoding.locking import KLRule
from surelock.decoding.protocols import LockNumbers
from surelock.decoding.schedule import Blocks, blocks_of
from surelock.decoding.selection import AllActive
from surelock.decoding.step import Method, StepCounts, StepInputs, StepKind, StepResult, denoise_step, look_ahead
from surelock.decoding.unmasking import POLICIES
from surelock.ops.head_logits import Head
from surelock.params import SamplingParams

VOCAB, MASK = 6, 5


class Scripted:
    """A model whose logits at (slot, position) of step t are script(t, slot, position); remembers the rows it ran."""

    def __init__(self, script: Callable[[int, int, int], list[float]]) -> None:
        self.script = script
        self.ran: list[list[tuple[int, int]]] = []

    def __call__(self, canvas: Canvases, cells: Tensor) -> Tensor:
        index = [divmod(int(cell), canvas.length) for cell in cells]
        self.ran.append(index)
        return torch.tensor([self.script(len(self.ran), *at) for at in index]).reshape(len(index), VOCAB)


def canvas_of(*canvases: list[int | None]) -> Canvases:
    num_slots, length = len(canvases), max(map(len, canvases))
    canvas = Canvases(VOCAB, dtype=torch.float32, device=torch.device("cpu"), num_slots=num_slots, length=length)
    for slot, ids in enumerate(canvases):
        tokens = torch.tensor([MASK if i is None else i for i in ids])
        canvas.put(slot, tokens, tokens == MASK)
    return canvas


def inputs_of(canvas: Canvases, *, block_length: int = 99, **lock: float) -> StepInputs:
    """One token a step; the blocks begin at position 0."""

    def column(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((canvas.num_slots,), value, dtype=dtype)

    integer, real, flag = torch.int64, torch.float64, torch.bool
    blocks = blocks_of(SamplingParams(max_tokens=canvas.length, block_length=block_length), 0)
    numbers = {"kl_threshold": 1e-3, "percentile": torch.nan, "min_visible_steps": 1, **lock}
    has_gate = numbers["percentile"] == numbers["percentile"]
    return StepInputs(
        kind=StepKind(has_gate=has_gate, measures_late=numbers["min_visible_steps"] == 0),
        blocks=Blocks(*(column(getattr(blocks, field.name), integer) for field in fields(Blocks))),
        seed=column(0, integer),
        temperature=column(0, real),
        allow_mask=column(False, flag),
        policy={"low_confidence": column(True, flag)},
        lock=LockNumbers(
            kl_threshold=column(numbers["kl_threshold"], real),
            percentile=column(numbers["percentile"], real),
            gate_scope=column(0, integer),
            min_visible_steps=column(numbers["min_visible_steps"], integer),
            kl_both_visible=column(numbers.get("kl_both_visible", False), flag),
            prompt_lock_step=column(numbers.get("prompt_lock_step", 0), integer),
            refresh=column(0, integer),
            has_gate=has_gate,
        ),
    )


def counts_of(result: StepResult, slot: int = 0) -> StepCounts:
    return StepCounts(*result.counts[:, slot].tolist())


def run(canvas: Canvases, model: Scripted, **numbers: Any) -> StepResult:
    """One step of a batch that has just been put, or has done some steps."""
    method = Method(AllActive(), POLICIES, KLRule(), Head(torch.eye(VOCAB)), MASK)
    inputs = inputs_of(canvas, **numbers)
    look_ahead(canvas, inputs, method)
    return denoise_step(canvas, inputs, method, model)


def still(step: int, slot: int, position: int) -> list[float]:
    """A posterior that never moves; later positions are surer."""
    return [0.0, 1.0 + position, 0.0, 0.0, 0.0, 0.0]


def test_the_most_confident_masked_position_before_the_block_end_is_committed() -> None:
    canvas = canvas_of([2, None, None, None])
    result = run(canvas, Scripted(still), block_length=3)
    assert result.committed.tolist() == [[False, False, True, False]]
    assert canvas.tokens.tolist() == [[2, MASK, 1, MASK]]
    assert counts_of(result).proposed == 2


def test_mask_is_never_proposed_and_confidence_is_the_raw_softmax() -> None:
    canvas = canvas_of([None])
    result = run(canvas, Scripted(lambda *_: [0.0, 2.0, 0.0, 0.0, 0.0, 9.0]))
    assert canvas.tokens.tolist() == [[1]]
    raw = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0, 9.0]).softmax(0)[1]
    torch.testing.assert_close(result.confidence[0, 0], raw)


def test_default_rule_locks_a_generated_position_one_forward_after_its_token_was_read() -> None:
    canvas, model = canvas_of([2, None, None, None]), Scripted(still)
    states = []
    for _ in range(3):
        run(canvas, model)
        states.append(canvas.state.tolist()[0])
    masked, unmasked, locked, _ = PositionState
    assert states == [
        [unmasked, masked, masked, unmasked],  # nothing locks at t = 1: there is no posterior before it
        [locked, masked, unmasked, locked],  # position 3 was committed at 1 and read at 2
        [locked, unmasked, unmasked, locked],  # nothing locks in the last step
    ]
    assert canvas.locked_at.tolist() == [[2, 0, 0, 2]]
    assert model.ran == [[(0, 0), (0, 1), (0, 2), (0, 3)], [(0, 0), (0, 1), (0, 2), (0, 3)], [(0, 1), (0, 2)]]
    assert canvas.done.tolist() == [True]


def test_literal_rule_locks_in_the_step_that_commits() -> None:
    canvas, model = canvas_of([2, None, None, None]), Scripted(still)
    run(canvas, model, min_visible_steps=0)
    result = run(canvas, model, min_visible_steps=0)
    assert result.committed.tolist() == [[False, False, True, False]]
    locked = PositionState.LOCKED
    assert canvas.state.tolist() == [[locked, PositionState.MASKED, locked, locked]]
    assert counts_of(result).ghosts == 1


def test_a_posterior_that_moves_does_not_lock() -> None:
    def moving(step: int, slot: int, position: int) -> list[float]:
        return [float(step) if position == 0 else 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    canvas, model = canvas_of([2, 3, None, None, None, None]), Scripted(moving)
    for _ in range(3):
        run(canvas, model)
    assert canvas.locked_at[0, :2].tolist() == [0, 2]


def test_both_visible_waits_one_forward_more_for_generated_positions() -> None:
    canvas, model = canvas_of([2, None, None, None, None]), Scripted(still)
    for _ in range(3):
        run(canvas, model, kl_both_visible=True)
    assert canvas.locked_at.tolist() == [[2, 0, 0, 0, 3]]


def test_gate_holds_back_the_unsure_and_counts_them() -> None:
    canvas, model = canvas_of([None, None, None, 2, 3, 1, 2, 2, 3]), Scripted(still)
    run(canvas, model, percentile=20)
    result = run(canvas, model, percentile=20)
    # floor(0.2 * 6) + 1 = 2 of 7 candidates pass: the surest, which are the last.
    assert result.locked.tolist() == [[*[False] * 7, True, True]]
    assert counts_of(result).gate_blocked == 5


def test_prompt_rule_locks_prompts_whatever_their_divergence() -> None:
    canvas = canvas_of([2, None, None, None])
    model = Scripted(lambda step, slot, position: [3.0 * step, 1.0, 5.0 * (step % 2), 0.0, 0.0, 0.0])
    run(canvas, model, prompt_lock_step=2, kl_threshold=0)
    run(canvas, model, prompt_lock_step=2, kl_threshold=0)
    assert canvas.locked_at.tolist() == [[2, 0, 0, 0]]


def test_a_prompt_position_that_the_prompt_rule_locks_is_not_blocked_by_the_gate() -> None:
    canvas, model = canvas_of([None, None, None, 2, 3, 1, 2, 2, 3]), Scripted(still)
    run(canvas, model, percentile=20, prompt_lock_step=2)
    result = run(canvas, model, percentile=20, prompt_lock_step=2)
    assert result.locked.tolist() == [[False, False, False, *[True] * 6]]
    # Position 2, committed in the first step, is the only one that the gate holds back.
    assert counts_of(result).gate_blocked == 1


def test_requests_of_a_batch_do_not_touch_each_other() -> None:
    together = canvas_of([2, None, None], [None, 1, 3, None, None])
    alone = canvas_of([None, 1, 3, None, None])
    several, single = Scripted(still), Scripted(still)
    for _ in range(4):
        run(together, several)
        run(alone, single)
    assert together.tokens[1].tolist() == alone.tokens[0].tolist()
    assert together.locked_at[1].tolist() == alone.locked_at[0].tolist()


def test_a_step_without_rows_is_fine() -> None:
    canvas = canvas_of([2, 3])
    canvas.clear(0)
    assert counts_of(run(canvas, Scripted(still))).rows == 0


def test_non_finite_logits_fail_their_own_request_only() -> None:
    def broken(step: int, slot: int, position: int) -> list[float]:
        return [float("nan") if slot == 0 else 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    canvas = canvas_of([2, None], [2, None])
    result = run(canvas, Scripted(broken))
    assert [counts_of(result, slot).failed for slot in (0, 1)] == [1, 0]
    assert not canvas.active[0].any()
    assert canvas.tokens[1].tolist() == [2, 1]
