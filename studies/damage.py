"""The same decisions with locks and without: what freezing does to the masked rows, which decide what comes next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from studies.decoders import Dispatch
from studies.policies import Policy
from studies.study import Row
from surelock.measure.instrumented import InstrumentedDecoder as DenseDecoder
from surelock.measure.instrumented import MeasuredStep as DenseStep
from surelock.measure.instrumented import RunRecord as Record
from surelock.measure.posteriors import row_parts
from surelock.ops.step_kl import kl_from_logits

if TYPE_CHECKING:
    from studies.bench import Bench
    from surelock.params import SamplingParams


@dataclass(slots=True)
class Damage:
    """Sums over the masked rows of all steps.

    Attributes:
        rows: masked rows. flips: of these, how many have another likeliest token than without locks.
        kl: KL(without locks || with locks), summed, nats.
        frozen: frozen rows, summed over the steps. active, possible: rows computed, and of all.
        locks: positions locked.
    """

    rows: int = 0
    flips: int = 0
    kl: float = 0.0
    frozen: int = 0
    active: int = 0
    possible: int = 0
    locks: int = 0

    def row(self) -> Row:
        """Columns of a table."""
        return {
            "active_ratio": self.active / self.possible, "locks": self.locks, "frozen": self.frozen,
            "masked_rows": self.rows, "flip_rate": self.flips / self.rows, "kl_per_row": self.kl / self.rows,
            "kl_per_frozen": self.kl / self.frozen if self.frozen else None,
        }  # fmt: skip


def measure_damage(
    bench: Bench, canvases: Sequence[Sequence[int]], params: SamplingParams,
    policies: Mapping[str, Callable[[], Policy]],
) -> dict[str, Damage]:  # fmt: skip
    """Each policy repeats the decisions of a run without locks; canvases are of one length.

    Every batch holds that run too, so that both sides are computed by the same products.
    """
    drift = any(start().needs_drift for start in policies.values())
    decoder = DenseDecoder(bench.llm.transformer, measure_drift=drift)
    found = {name: Damage() for name in policies}
    # The run without locks, once to decide and once to compare with.
    num = max(1, decoder.batch_size(len(canvases[0]) + params.max_tokens) // (len(policies) + 1))
    for start in range(0, len(canvases), num):
        part = canvases[start : start + num]
        bench.show(start / len(canvases), f"{start} of {len(canvases)} prompts")
        _measure(decoder, part, params, policies, found)
    return found


def _measure(
    decoder: DenseDecoder, canvases: Sequence[Sequence[int]], params: SamplingParams,
    policies: Mapping[str, Callable[[], Policy]], found: dict[str, Damage],
) -> None:  # fmt: skip
    num, copies = len(canvases), len(policies) + 1
    free = decoder.run(canvases, params, rule=Policy().lock)
    forced = Record(
        tokens=free.tokens.repeat(copies, 1),
        committed_at=free.committed_at.repeat(copies, 1),
        locked_at=free.locked_at.repeat(copies, 1),
        age_at_lock=free.age_at_lock.repeat(copies, 1),
        num_active=free.num_active.repeat(1, copies),
    )
    dispatch = Dispatch([(Policy(), num), *((start(), num) for start in policies.values())])
    zero = torch.zeros(copies, dtype=torch.float64, device=decoder.model.device)
    sums = dict.fromkeys(("rows", "flips", "kl", "frozen", "active", "locks"), zero)
    num_rows = 0
    for step in dispatch.steps(decoder, list(canvases) * copies, params, forced=forced):
        for name, values in _of_step(step, num).items():
            sums[name] = sums[name] + values.view(copies, -1).sum(1).double()
        num_rows += num * step.tokens.shape[1]
    for index, total in enumerate(found.values(), start=1):
        total.kl += float(sums["kl"][index])
        total.possible += num_rows
        for name in ("rows", "flips", "frozen", "active", "locks"):
            setattr(total, name, getattr(total, name) + round(float(sums[name][index])))


def _of_step(step: DenseStep, num: int) -> dict[str, Tensor]:
    """Of each canvas [B]; the first num are those without locks."""
    copies = len(step.tokens) // num
    flipped = step.masked & (step.argmax != step.argmax[:num].repeat(copies, 1))
    canvas, position = step.masked.nonzero(as_tuple=True)
    moved = torch.zeros(len(step.tokens), dtype=torch.float64, device=step.tokens.device)
    for part in row_parts(len(canvas), step.logits.shape[2]):
        own, where = canvas[part], position[part]
        divergence = kl_from_logits(step.logits[own % num, where], step.logits[own, where]).kl
        moved.index_add_(0, own, divergence.double())
    return {
        "rows": step.masked.sum(1), "flips": flipped.sum(1), "kl": moved,
        "frozen": (step.locked & ~step.refreshed).sum(1), "active": step.num_active,
        "locks": step.newly_locked.sum(1),
    }  # fmt: skip
