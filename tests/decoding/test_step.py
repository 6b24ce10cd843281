"""Algorithm 1 against a scripted model: hidden rows are the logits themselves, and the script says what they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from surelock.decoding.canvas import Canvas, PositionState
from surelock.decoding.locking import KLRule
from surelock.decoding.protocols import LockNumbers
from surelock.decoding.selection import AllActive
from surelock.decoding.step import Method, StepCounts, StepKind, StepPlan, StepResult, denoise_step
from surelock.decoding.unmasking import POLICIES
from surelock.ops.head_logits import Head

VOCAB, MASK = 6, 5


class Scripted:
    """A model whose logits at (slot, position) of step t are script(t, slot, position); remembers the rows it ran."""

    def __init__(self, script: Callable[[int, int, int], list[float]]) -> None:
        self.script = script
        self.ran: list[list[tuple[int, int]]] = []

    def __call__(self, canvas: Canvas, cells: Tensor) -> Tensor:
        index = [divmod(int(cell), canvas.length) for cell in cells]
        self.ran.append(index)
        return torch.tensor([self.script(len(self.ran), *at) for at in index]).reshape(len(index), VOCAB)


def canvas_of(*canvases: list[int | None]) -> Canvas:
    num_slots, length = len(canvases), max(map(len, canvases))
    canvas = Canvas(VOCAB, dtype=torch.float32, device=torch.device("cpu"), num_slots=num_slots, length=length)
    for slot, ids in enumerate(canvases):
        tokens = torch.tensor([MASK if i is None else i for i in ids])
        canvas.put(slot, tokens, tokens == MASK)
    return canvas


def plan_of(step: int, *, slots: int = 1, quota: int = 1, end: int = 99, **lock: float) -> StepPlan:
    def column(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((slots,), value, dtype=dtype)

    integer, real, flag = torch.int64, torch.float64, torch.bool
    numbers = {"kl_threshold": 1e-3, "percentile": torch.nan, "min_visible_steps": 1, **lock}
    has_gate = numbers["percentile"] == numbers["percentile"]
    return StepPlan(
        kind=StepKind(has_gate=has_gate, measures_late=numbers["min_visible_steps"] == 0),
        step=column(step, integer),
        counted_from=column(0, integer),
        block_end=column(end, integer),
        # More steps than masks: the first ones commit one token each, the others none.
        block_steps=column(1000, integer),
        block_index=column(0 if quota else 999, integer),
        tests_locks=column(True, flag),
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
            has_gate=has_gate,
        ),
    )


def counts_of(result: StepResult, slot: int = 0) -> StepCounts:
    return StepCounts(*result.counts[:, slot].tolist())


def run(canvas: Canvas, plan: StepPlan, model: Scripted) -> StepResult:
    method = Method(AllActive(), POLICIES, KLRule(), Head(torch.eye(VOCAB)), MASK)
    return denoise_step(canvas, plan, method, model)


def still(step: int, slot: int, position: int) -> list[float]:
    """A posterior that never moves; later positions are surer."""
    return [0.0, 1.0 + position, 0.0, 0.0, 0.0, 0.0]


def test_the_most_confident_masked_position_before_the_block_end_is_committed() -> None:
    canvas = canvas_of([2, None, None, None])
    result = run(canvas, plan_of(1, end=3), Scripted(still))
    assert result.committed.tolist() == [[False, False, True, False]]
    assert canvas.tokens.tolist() == [[2, MASK, 1, MASK]]
    assert counts_of(result).num_proposed == 2


def test_mask_is_never_proposed_and_confidence_is_the_raw_softmax() -> None:
    canvas = canvas_of([None])
    result = run(canvas, plan_of(1), Scripted(lambda *_: [0.0, 2.0, 0.0, 0.0, 0.0, 9.0]))
    assert canvas.tokens.tolist() == [[1]]
    raw = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0, 9.0]).softmax(0)[1]
    torch.testing.assert_close(result.confidence[0, 0], raw)


def test_default_rule_locks_a_generated_position_one_forward_after_its_token_was_read() -> None:
    canvas, model = canvas_of([2, None, None]), Scripted(still)
    states = []
    for step in (1, 2, 3):
        run(canvas, plan_of(step), model)
        states.append(canvas.state.tolist()[0])
    masked, unmasked, locked = PositionState
    assert states == [
        [unmasked, masked, unmasked],  # nothing locks at t = 1: there is no posterior before it
        [locked, unmasked, locked],  # position 2 was committed at 1 and read at 2
        [locked, locked, locked],
    ]
    assert canvas.locked_at.tolist() == [[2, 3, 2]]
    assert model.ran == [[(0, 0), (0, 1), (0, 2)], [(0, 0), (0, 1), (0, 2)], [(0, 1)]]


def test_literal_rule_locks_in_the_step_that_commits() -> None:
    canvas, model = canvas_of([2, None, None]), Scripted(still)
    run(canvas, plan_of(1, min_visible_steps=0), model)
    result = run(canvas, plan_of(2, min_visible_steps=0), model)
    assert result.committed.tolist() == [[False, True, False]]
    assert canvas.state.tolist() == [[PositionState.LOCKED] * 3]
    assert counts_of(result).num_ghosts == 1


def test_a_posterior_that_moves_does_not_lock() -> None:
    def moving(step: int, slot: int, position: int) -> list[float]:
        return [float(step) if position == 0 else 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    canvas, model = canvas_of([2, 3]), Scripted(moving)
    for step in (1, 2, 3):
        run(canvas, plan_of(step, quota=0), model)
    assert canvas.locked_at.tolist() == [[0, 2]]


def test_both_visible_waits_one_forward_more_for_generated_positions() -> None:
    canvas, model = canvas_of([2, None]), Scripted(still)
    for step in (1, 2, 3):
        run(canvas, plan_of(step, kl_both_visible=True), model)
    assert canvas.locked_at.tolist() == [[2, 3]]


def test_gate_holds_back_the_unsure_and_counts_them() -> None:
    canvas, model = canvas_of([2, 3, 1, 2, 2, 3]), Scripted(still)
    run(canvas, plan_of(1, quota=0, percentile=20), model)
    result = run(canvas, plan_of(2, quota=0, percentile=20), model)
    # floor(0.2 * 5) + 1 = 2 of 6 candidates pass: the surest, which are the last.
    assert result.locked.tolist() == [[False, False, False, False, True, True]]
    assert counts_of(result).num_gate_blocked == 4


def test_prompt_rule_locks_prompts_whatever_their_divergence() -> None:
    canvas = canvas_of([2, None, None])
    model = Scripted(lambda step, slot, position: [3.0 * step, 1.0, 5.0 * (step % 2), 0.0, 0.0, 0.0])
    run(canvas, plan_of(1, prompt_lock_step=2, kl_threshold=0), model)
    run(canvas, plan_of(2, prompt_lock_step=2, kl_threshold=0), model)
    assert canvas.locked_at.tolist() == [[2, 0, 0]]


def test_requests_of_a_batch_do_not_touch_each_other() -> None:
    together = canvas_of([2, None, None], [None, 1, 3, None, None])
    alone = canvas_of([None, 1, 3, None, None])
    several, single = Scripted(still), Scripted(still)
    for step in (1, 2, 3, 4):
        run(together, plan_of(step, slots=2), several)
        run(alone, plan_of(step), single)
    assert together.tokens[1].tolist() == alone.tokens[0].tolist()
    assert together.locked_at[1].tolist() == alone.locked_at[0].tolist()


def test_a_step_without_rows_is_fine() -> None:
    canvas = canvas_of([2, 3])
    canvas.clear(0)
    result = run(canvas, plan_of(1), Scripted(still))
    assert not result.rows.any()


def test_non_finite_logits_fail_their_own_request_only() -> None:
    def broken(step: int, slot: int, position: int) -> list[float]:
        return [float("nan") if slot == 0 else 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    canvas = canvas_of([2, None], [2, None])
    result = run(canvas, plan_of(1, slots=2), Scripted(broken))
    assert [counts_of(result, slot).failed for slot in (0, 1)] == [1, 0]
    assert not canvas.active[0].any()
    assert canvas.tokens[1].tolist() == [2, 1]
