"""What the host gets to see of a request after each step."""

from __future__ import annotations

from dataclasses import dataclass

from surelock.decoding.canvas import Canvas, PositionState
from surelock.decoding.step import StepResult
from surelock.engine.request import Request


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One request after one step.

    Attributes:
        tokens: the N token ids, MASK where masked. `masked`: whether they are.
        locked_at: for each position the step that locked it, or None.
        committed: (position, confidence) of the tokens committed in this step.
        locked: positions locked in this step.
        kl: {position: nats} of the rows whose divergence was measured.
    """

    request: Request
    tokens: list[int]
    masked: list[bool]
    locked_at: list[int | None]
    committed: list[tuple[int, float]]
    locked: list[int]
    kl: dict[int, float]


def take_snapshot(request: Request, result: StepResult, canvas: Canvas) -> Snapshot:
    """Copy one request's part of a step to the host; `canvas` already has the step applied."""
    slot = request.slot
    assert slot is not None
    num = request.num_positions
    committed = result.committed[slot, :num].nonzero().squeeze(1)
    kl = result.kl[slot, :num]
    measured = kl.isfinite().nonzero().squeeze(1)
    return Snapshot(
        request=request,
        tokens=canvas.tokens[slot, :num].tolist(),
        masked=(canvas.state[slot, :num] == PositionState.MASKED).tolist(),
        locked_at=[step or None for step in canvas.locked_at[slot, :num].tolist()],
        committed=list(zip(committed.tolist(), result.confidence[slot, committed].tolist(), strict=True)),
        locked=result.locked[slot, :num].nonzero().squeeze(1).tolist(),
        kl=dict(zip(measured.tolist(), kl[measured].tolist(), strict=True)),
    )
