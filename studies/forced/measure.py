"""Measures every step of a run with locks that repeats the decisions of one without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from studies.bench import Bench
from studies.decoders import batches_of
from studies.forced.effects import LOCKED, effects, lock_classes
from studies.forced.free import measure_free_runs
from studies.forced.records import GHOST, LOCK_CLASSES, Record
from studies.study import Row, Settings
from surelock.measure.forced.lockstep import ForcedStep, LockedSide, teacher_forced
from surelock.measure.instrumented import InstrumentedDecoder
from surelock.measure.instrumented.forward import Frozen, relative_change
from surelock.measure.posteriors import Comparison, compare
from surelock.params import LockParams, SamplingParams


def measure(
    bench: Bench, prompts: Sequence[Sequence[int]], params: SamplingParams, lock: LockParams, effort: Settings
) -> Record:
    """Every prompt with and without one rule, step by step; then the runs that go free."""
    model, record, done = bench.llm.transformer, Record(), 0
    decoder = InstrumentedDecoder(model, keep_keys_values=True)
    # Either run keeps its own logits, keys and values.
    for batch in batches_of(decoder, prompts, params.max_tokens, 3):
        measurement = Measurement(record, batch, effort)
        for step in teacher_forced(model, [prompts[index] for index in batch], params, {LOCKED: lock}):
            measurement.take(step)
            share = (done + len(batch) * step.step / step.num_steps) / len(prompts)
            bench.show(0.9 * share, f"prompts {done + 1} to {done + len(batch)} of {len(prompts)}, step {step.step}")
        done += len(batch)
    bench.show(0.9, "runs that go free")
    measure_free_runs(bench.llm, prompts, params, lock, record)
    return record


class Measurement:
    """Takes in the steps of one batch of canvases.

    Args:
        record: what is found is added here.
        prompts: numbers of the canvases' prompts.
        effort: group_every: in every step that it divides each group of the locks is frozen on its own. num_probes:
            steps in which up to max_locks locks of a canvas are set free one at a time, to see what each does.
    """

    def __init__(self, record: Record, prompts: Sequence[int], effort: Settings) -> None:
        self._record, self._prompts, self._effort = record, list(prompts), effort
        self._random = np.random.default_rng(self._prompts)

    def take(self, step: ForcedStep) -> None:
        """Measure one step; they must come in order."""
        side, effort, record = step.sides[LOCKED], self._effort, self._record
        found = compare(step.fresh_logits[step.masked], side.step.logits[step.masked], step.model.config.mask_token_id)
        flipped, commits, classes = found.flipped, step.committed[step.masked], lock_classes(side, step.given)
        record.steps.append({
            "step": step.step, "kl": found.kl.cpu().numpy(), "flips": int(flipped.sum()),
            "commits": int(commits.sum()), "commit_flips": int((flipped & commits).sum()),
            "frozen": int(side.frozen.sum()), "ghosts": int((side.frozen & (classes == GHOST)).sum()),
            "positions": side.frozen.numel(),
        })  # fmt: skip
        rows = group_rows(step, torch.ones_like(step.masked), found, self._prompts)
        record.first_flip = {row["prompt"]: step.step for row in rows if row["flips"]} | record.first_flip
        if bool(side.frozen.any()):
            if step.step % effort.group_every == 0:
                self._take_groups(step, side, classes, found)
            num = effort.num_probes
            if step.step in {round(step.num_steps * place / (num + 1)) for place in range(1, num + 1)}:
                record.effects += effects(step, self._prompts, effort.max_locks, self._random)

    def _take_groups(self, step: ForcedStep, side: LockedSide, classes: Tensor, whole: Comparison) -> None:
        rows = self._record.groups
        rows += _tagged("all", "all locks", group_rows(step, side.frozen, whole, self._prompts))
        drift = relative_change(side.kv, step.fresh_kv).mean((0, 1))
        mean = torch.where(side.frozen, drift, torch.nan)
        high = side.frozen & (mean > mean.nanmedian(1, keepdim=True).values)
        kv, everything = side.kv, side.frozen
        groups = [("age", name, everything & (classes == index)) for index, name in enumerate(LOCK_CLASSES)]
        groups += [("drift", "lower half", everything & ~high), ("drift", "upper half", high)]
        for axis, name, where in groups:
            rows += _tagged(axis, name, freeze_only(step, Frozen(where, kv), self._prompts))
        for layer in range(len(kv)):
            found = freeze_only(step, Frozen(everything, kv, [layer]), self._prompts)
            rows += _tagged("layer", str(layer + 1), found)


def freeze_only(step: ForcedStep, frozen: Frozen, prompts: Sequence[int]) -> list[Row]:
    """Compute the step again with nothing else frozen: what its masked rows say; nothing where nothing is frozen."""
    if not bool(frozen.where.any()):
        return []
    found = compare(step.fresh_logits[step.masked], step.logits_with(frozen), step.model.config.mask_token_id)
    return group_rows(step, frozen.where, found, prompts)


def group_rows(step: ForcedStep, where: Tensor, found: Comparison, prompts: Sequence[int]) -> list[Row]:
    """Of each canvas with a lock of the group, frozen at `where` [B, N]; the others say nothing about the group.

    prompts: the number of each canvas' prompt.
    """
    kl = torch.zeros(step.masked.shape, dtype=torch.float64, device=where.device)
    flipped = torch.zeros_like(step.masked)
    kl[step.masked], flipped[step.masked] = found.kl.double(), found.flipped
    columns = {"rows": step.masked, "flips": flipped, "kl": kl, "locks": where}
    of_canvases = zip(*(values.sum(1).tolist() for values in columns.values()), strict=True)
    rows = [dict(zip(columns, numbers, strict=True)) for numbers in of_canvases]
    return [{"prompt": prompt, **row} for prompt, row in zip(prompts, rows, strict=True) if row["locks"]]


def _tagged(axis: str, group: str, rows: Sequence[Row]) -> list[Row]:
    return [{"axis": axis, "group": group, **row} for row in rows]
