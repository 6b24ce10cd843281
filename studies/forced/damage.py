"""The same decisions with locks of any policy and without: what freezing does to the masked rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from studies.bench import Bench
from studies.decoders import Dispatch, batches_of
from studies.policies import Policy
from studies.study import Row
from surelock.measure.instrumented import InstrumentedDecoder, MeasuredStep, RunRecord
from surelock.measure.posteriors import row_parts
from surelock.ops.step_kl import kl_from_logits
from surelock.params import SamplingParams


def measure_damage(
    bench: Bench, canvases: Sequence[Sequence[int]], params: SamplingParams, policies: Sequence[Callable[[], Policy]]
) -> list[Row]:
    """Columns for each policy, which repeats the decisions of a run without locks; canvases are of one length.

    Every batch holds that run too, so that both sides are computed by the same products.
    """
    starts = (Policy, *policies)
    copies, totals = len(starts), dict[str, Tensor | int]()
    decoder = InstrumentedDecoder(bench.llm.transformer, measure_drift=any(start().needs_drift for start in policies))
    for batch in batches_of(decoder, canvases, params.max_tokens, copies):
        part = [canvases[index] for index in batch]
        bench.show(batch[0] / len(canvases), f"{batch[0]} of {len(canvases)} prompts")
        free = decoder.run(part, params, rule=Policy().lock)
        forced = RunRecord(
            tokens=free.tokens.repeat(copies, 1), committed_at=free.committed_at.repeat(copies, 1),
            locked_at=free.locked_at.repeat(copies, 1), age_at_lock=free.age_at_lock.repeat(copies, 1),
            num_active=free.num_active.repeat(1, copies),
        )  # fmt: skip
        dispatch = Dispatch([(start(), len(part)) for start in starts])
        for step in dispatch.steps(decoder, part * copies, params, forced=forced):
            for name, values in _of_step(step, len(part)).items():
                totals[name] = totals.get(name, 0) + values.view(copies, -1).sum(1)
    columns = {name: values.tolist() for name, values in totals.items() if isinstance(values, Tensor)}
    return [_row(**{name: values[index] for name, values in columns.items()}) for index in range(1, copies)]


def _row(*, rows: int, flips: int, kl: float, frozen: int, active: int, possible: int, locks: int) -> Row:
    return {
        "active_ratio": active / possible, "locks": locks, "frozen": frozen, "masked_rows": rows,
        "flip_rate": flips / rows, "kl_per_row": kl / rows, "kl_per_frozen": kl / frozen if frozen else None,
    }  # fmt: skip


def _of_step(step: MeasuredStep, num: int) -> dict[str, Tensor]:
    """Of each canvas [B], the first num of which are without locks.

    Masked rows, those with another likeliest token than without locks, and KL(without locks || with), nats; frozen
    rows, rows computed, rows in all, and positions locked.
    """
    copies, (batch, num_positions) = len(step.tokens) // num, step.tokens.shape
    flipped = step.masked & (step.argmax != step.argmax[:num].repeat(copies, 1))
    canvas, position = step.masked.nonzero(as_tuple=True)
    moved = torch.zeros(batch, dtype=torch.float64, device=step.tokens.device)
    for part in row_parts(len(canvas), step.logits.shape[2]):
        own, where = canvas[part], position[part]
        divergence = kl_from_logits(step.logits[own % num, where], step.logits[own, where]).kl
        moved.index_add_(0, own, divergence.double())
    return {
        "rows": step.masked.sum(1), "flips": flipped.sum(1), "kl": moved,
        "frozen": (step.locked & ~step.refreshed).sum(1), "active": step.num_active,
        "possible": torch.full_like(step.num_active, num_positions), "locks": step.newly_locked.sum(1),
    }  # fmt: skip
