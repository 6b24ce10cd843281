"""The same decisions with locks and without: what freezing does to the masked rows, which decide what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surelock.eval.dense import DenseDecoder, DenseStep, Record
from surelock.eval.parts import row_parts
from surelock.experiments.result import Progress, no_progress
from surelock.experiments.sweep.policies import Policy
from surelock.experiments.sweep.together import Dispatch, Variant
from surelock.ops.step_kl import kl_from_logits

if TYPE_CHECKING:
    from surelock.models.transformer import Transformer
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


def measure_damage(
    model: Transformer,
    canvases: Sequence[Sequence[int]],
    params: SamplingParams,
    variants: Sequence[Variant],
    *,
    progress: Progress = no_progress,
) -> dict[str, Damage]:
    """Each variant repeats the decisions of a run without locks; canvases are of one length.

    Every batch holds that run too, so that both sides are computed by the same products.
    """
    decoder = DenseDecoder(model, measure_drift=any(variant.start().needs_drift for variant in variants))
    found = {variant.name: Damage() for variant in variants}
    # The run without locks, once to decide and once to compare with.
    num = max(1, decoder.batch_size(len(canvases[0]) + params.max_tokens) // (len(variants) + 1))
    for start in range(0, len(canvases), num):
        part = canvases[start : start + num]
        progress(f"damage, prompts {start + 1} to {start + len(part)} of {len(canvases)}")
        _measure(decoder, part, params, variants, found)
    return found


def _measure(
    decoder: DenseDecoder,
    canvases: Sequence[Sequence[int]],
    params: SamplingParams,
    variants: Sequence[Variant],
    found: dict[str, Damage],
) -> None:
    num, copies = len(canvases), len(variants) + 1
    free = decoder.run(canvases, params, rule=Policy().lock)
    forced = Record(
        tokens=free.tokens.repeat(copies, 1),
        committed_at=free.committed_at.repeat(copies, 1),
        locked_at=free.locked_at.repeat(copies, 1),
        age_at_lock=free.age_at_lock.repeat(copies, 1),
        num_active=free.num_active.repeat(1, copies),
    )
    dispatch = Dispatch([(Policy(), num), *((variant.start(), num) for variant in variants)])
    zero = torch.zeros(copies, dtype=torch.float64, device=decoder.model.device)
    sums = dict.fromkeys(("rows", "flips", "kl", "frozen", "active", "locks"), zero)
    num_rows = 0
    revisits = dispatch.revisits
    for step in decoder.steps(
        list(canvases) * copies,
        params,
        rule=dispatch.lock,
        refresh=dispatch.refresh if revisits else None,
        unlock=dispatch.unlock if revisits else None,
        forced=forced,
    ):
        for name, values in _of_step(step, num).items():
            sums[name] = sums[name] + values.view(copies, -1).sum(1).double()
        num_rows += num * step.tokens.shape[1]
    for index, variant in enumerate(variants, start=1):
        total = found[variant.name]
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
        "rows": step.masked.sum(1),
        "flips": flipped.sum(1),
        "kl": moved,
        "frozen": (step.locked & ~step.refreshed).sum(1),
        "active": step.num_active,
        "locks": step.newly_locked.sum(1),
    }
