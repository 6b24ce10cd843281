"""What the host gets to see of a request after each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surelock.decoding.canvases import Canvases, PositionState
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


class CanvasCopy:
    """The canvases of some slots as one step left them, on their way to the host.

    Args:
        canvas, result: after the step, before anything else was launched.
        slots: at least one.
    """

    def __init__(self, canvas: Canvases, result: StepResult, slots: Sequence[int]) -> None:
        index = torch.tensor(slots)
        if canvas.device.type == "cuda":
            index = index.pin_memory().to(canvas.device, non_blocking=True)
        # [5, slots, L] and [2, slots, L], 32 bits each, so that one copy takes all.
        integers = (canvas.tokens, canvas.state, canvas.locked_at, result.committed, result.locked)
        reals = (result.confidence, result.kl)
        rows = [x[index].int() for x in integers] + [x[index].view(torch.int32) for x in reals]
        self._host: Tensor = torch.stack(rows).to("cpu", non_blocking=True)
        self._row_of = {slot: row for row, slot in enumerate(slots)}

    def snapshot(self, request: Request) -> Snapshot:
        """Of a request that still has its slot; only once the device is past the copy."""
        assert request.slot is not None
        own = self._host[:, self._row_of[request.slot], : request.num_positions].numpy()
        tokens, state, locked_at, committed, locked = own[:5]
        confidence, kl = own[5:].view(np.float32)
        new, measured = committed.nonzero()[0], np.isfinite(kl).nonzero()[0]
        return Snapshot(
            request=request,
            tokens=tokens.tolist(),
            masked=(state == PositionState.MASKED).tolist(),
            locked_at=[step or None for step in locked_at.tolist()],
            committed=list(zip(new.tolist(), confidence[new].tolist(), strict=True)),
            locked=locked.nonzero()[0].tolist(),
            kl=dict(zip(measured.tolist(), kl[measured].tolist(), strict=True)),
        )
