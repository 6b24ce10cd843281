"""Several policies over the same canvases: every pair of a policy and a canvas is one canvas of the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from surelock.eval.dense import DenseDecoder, DenseState, KVDrift
from surelock.experiments.result import Progress, Row, no_progress
from surelock.experiments.sweep.policies import Policy
from surelock.flops import RowCost

if TYPE_CHECKING:
    from surelock.decoding.canvas import Mask
    from surelock.models.config import ModelConfig
    from surelock.models.transformer import Transformer
    from surelock.params import SamplingParams

COST_NOTE: Final = (
    "Active ratio: rows computed / (steps x N), refreshed rows among them. FLOPs ratios, with locks / without: exact "
    "counts what is computed, full adds the LM head of masked rows and two head rows for each row whose posterior is "
    "compared."
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A policy by name; `start` makes one for each batch."""

    name: str
    start: Callable[[], Policy] = Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasRun:
    """One canvas decoded with one policy; counts are summed over its steps.

    Attributes:
        tokens: the generated ones.
        num_positions, num_steps: of the canvas.
        active, masked, tested, refreshed: rows computed, of these masked, with compared posteriors, computed anew
            although locked.
        locks, unlocks: how often positions were locked and unlocked.
    """

    tokens: list[int]
    num_positions: int
    num_steps: int
    active: int
    masked: int
    tested: int
    refreshed: int
    locks: int
    unlocks: int


class Dispatch:
    """Asks each policy about its own canvases of a batch: the hooks of `DenseDecoder.steps`.

    Args:
        policies: of consecutive canvases, and of how many each.
    """

    def __init__(self, policies: Sequence[tuple[Policy, int]]) -> None:
        self._parts: list[tuple[Policy, slice]] = []
        start = 0
        for policy, num in policies:
            self._parts.append((policy, slice(start, start + num)))
            start += num
        self.tested: Tensor | int = 0

    @property
    def revisits(self) -> bool:
        """Whether any of them computes or unlocks what it locked."""
        return any(policy.revisits for policy, _ in self._parts)

    def lock(self, state: DenseState) -> Mask:
        """Of all."""
        parts = [(policy, _part(state, where)) for policy, where in self._parts]
        self.tested = self.tested + torch.cat([policy.tested(own) for policy, own in parts]).sum(1)
        return torch.cat([policy.lock(own) for policy, own in parts])

    def refresh(self, state: DenseState) -> Mask:
        """Of all."""
        return torch.cat([policy.refresh(_part(state, where)) for policy, where in self._parts])

    def unlock(self, state: DenseState) -> Mask:
        """Of all."""
        return torch.cat([policy.unlock(_part(state, where)) for policy, where in self._parts])


def run_together(
    model: Transformer,
    canvases: Sequence[Sequence[int]],
    params: SamplingParams,
    variants: Sequence[Variant],
    *,
    progress: Progress = no_progress,
) -> dict[str, list[CanvasRun]]:
    """Decode canvases of one length with every variant; the runs of each, in the order of the canvases."""
    drift = any(variant.start().needs_drift for variant in variants)
    decoder = DenseDecoder(model, measure_drift=drift)
    pairs = [(variant, canvas) for variant in variants for canvas in canvases]
    size = decoder.batch_size(len(canvases[0]) + params.max_tokens)
    found: dict[str, list[CanvasRun]] = {variant.name: [] for variant in variants}
    for start in range(0, len(pairs), size):
        batch = pairs[start : start + size]
        shares = [(variant, len(list(same))) for variant, same in groupby(variant for variant, _ in batch)]
        progress(f"runs {start + 1} to {start + len(batch)} of {len(pairs)}")
        dispatch = Dispatch([(variant.start(), num) for variant, num in shares])
        runs = _run(decoder, [canvas for _, canvas in batch], params, dispatch)
        for (variant, _), run in zip(batch, runs, strict=True):
            found[variant.name].append(run)
    return found


def cost_row(config: ModelConfig, runs: Sequence[CanvasRun]) -> Row:
    """active_ratio, exact_ratio and full_ratio of several runs together."""
    cost = RowCost.from_config(config)
    rows = sum(run.num_positions * run.num_steps for run in runs)
    base = sum(run.num_positions * run.num_steps * cost.transformer(run.num_positions) for run in runs)
    locked = sum(run.active * cost.transformer(run.num_positions) for run in runs)
    masked, tested = (cost.head * sum(getattr(run, name) for run in runs) for name in ("masked", "tested"))
    return {
        "active_ratio": sum(run.active for run in runs) / rows,
        "exact_ratio": locked / base,
        "full_ratio": (locked + masked + 2 * tested) / (base + masked),
    }


def _run(
    decoder: DenseDecoder, canvases: Sequence[Sequence[int]], params: SamplingParams, dispatch: Dispatch
) -> Iterator[CanvasRun]:
    zero = torch.zeros(len(canvases), dtype=torch.int64, device=decoder.model.device)
    counts = dict.fromkeys(("active", "masked", "refreshed", "locks", "unlocks"), zero)
    steps = decoder.steps(
        canvases,
        params,
        rule=dispatch.lock,
        refresh=dispatch.refresh if dispatch.revisits else None,
        unlock=dispatch.unlock if dispatch.revisits else None,
    )
    for step in steps:
        counts["active"] = counts["active"] + step.num_active
        for name, where in (
            ("masked", step.masked),
            ("refreshed", step.refreshed),
            ("locks", step.newly_locked),
            ("unlocks", step.unlocked),
        ):
            counts[name] = counts[name] + where.sum(1)
        tokens, num_steps = step.tokens, step.num_steps
    lists = {name: of_name.tolist() for name, of_name in counts.items()}
    lists["tested"] = (zero + dispatch.tested).tolist()
    for index, row in enumerate(tokens.tolist()):
        yield CanvasRun(
            tokens=row[len(row) - params.max_tokens :],
            num_positions=len(row),
            num_steps=num_steps,
            **{name: of_name[index] for name, of_name in lists.items()},
        )


def _part(state: DenseState, where: slice) -> DenseState:
    """Of some of the canvases."""
    own: dict[str, Any] = {}
    for each in fields(state):
        value = getattr(state, each.name)
        if isinstance(value, Tensor):
            own[each.name] = value[where]
        elif isinstance(value, KVDrift):
            own[each.name] = KVDrift(*(getattr(value, of.name)[:, where] for of in fields(value)))
    return replace(state, **own)
