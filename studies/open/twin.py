"""What locking does to the rows that are still masked: the decisions of a run without locks repeated with locks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from studies.bench import NUM_TEXT_TOKENS, Bench, Length, lengths
from studies.forced.free import measure_free_runs
from studies.forced.measure import DELAYS, Effort, Measurement
from studies.forced.records import LOCK_CLASSES, Group, Record, Sums
from studies.plots import Panel, Points, picture
from studies.study import Cell, Plot, Row, Rows, Study, Table
from surelock.errors import ParameterError
from surelock.measure.forced.lockstep import teacher_forced
from surelock.measure.instrumented import InstrumentedDecoder as DenseDecoder
from surelock.measure.instrumented import group_canvases
from surelock.measure.prompt_sets import task_canvases, text_canvases
from surelock.measure.rules import parse_rule
from surelock.params import LockParams, SamplingParams

# Beside its drift in each layer, what the harm of a lock is correlated with.
PREDICTORS: Final = ("kl_at_lock", "uncertainty_at_lock", "age_at_lock", "steps_since", "nearest_masked")
QUANTILES: Final = (("median", 0.5), ("p95", 0.95), ("max", 1.0))
# Fewer pairs make no correlation.
MIN_PAIRS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Rules by name (`surelock.measure.rules`), half texts and half questions, N_gen and steps; then see `Effort`."""

    rules: tuple[str, ...] = ("permanent", "literal", "paper")
    num_prompts: int = 64
    lengths: tuple[Length, ...] = lengths(64)
    group_every: int = 4
    num_probes: int = 3
    num_scenes: int = 3
    max_locks: int = 64


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each rule."""
    prompts = _prompts(bench, settings.num_prompts)
    effort = Effort(
        group_every=settings.group_every, num_probes=settings.num_probes, num_scenes=settings.num_scenes,
        max_locks=settings.max_locks,
    )  # fmt: skip
    cells = []
    for length in bench.fitting(settings.lengths[:1], prompts):
        params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, ignore_eos=True, lock=None)
        for name in settings.rules:
            lock = parse_rule(name)
            if lock is None:
                raise ParameterError("rules names none, which is what the others are compared with; leave it out")
            cells.append(Cell(name=f"rule {name}", measure=partial(_rule, bench, prompts, params, name, lock, effort)))
    return cells


def _prompts(bench: Bench, num: int) -> list[list[int]]:
    """Half texts and half problems where the model can be asked any."""
    has_tasks = bench.options.prompts is None and bench.is_chat
    num_texts = (num + 1) // 2 if has_tasks else num
    found = list(text_canvases(bench.llm, num_texts, num_prompt_tokens=NUM_TEXT_TOKENS, path=bench.options.prompts))
    if num > num_texts:
        found += task_canvases(bench.llm, num - num_texts, seed=bench.seed)
    return [[token for token in canvas if token is not None] for canvas in found]


def _rule(
    bench: Bench, prompts: Sequence[Sequence[int]], params: SamplingParams, name: str, lock: LockParams, effort: Effort
) -> Rows:
    return tables(name, measure(bench, prompts, params, lock, effort))


def measure(
    bench: Bench, prompts: Sequence[Sequence[int]], params: SamplingParams, lock: LockParams, effort: Effort
) -> Record:
    """Every prompt with and without one rule, step by step; then the runs that go free."""
    model, record, done = bench.llm.transformer, Record(), 0
    decoder = DenseDecoder(model, keep_keys_values=True)
    for alike in group_canvases(prompts):
        # Either run keeps its own logits, keys and values.
        size = max(1, decoder.batch_size(len(prompts[alike[0]]) + params.max_tokens) // 3)
        for start in range(0, len(alike), size):
            batch = alike[start : start + size]
            measurement = Measurement(record, batch, effort)
            for twin in teacher_forced(model, [prompts[index] for index in batch], params, {"locked": lock}):
                measurement.take(twin)
                share = (done + len(batch) * twin.step / twin.num_steps) / len(prompts)
                bench.show(
                    0.9 * share, f"prompts {done + 1} to {done + len(batch)} of {len(prompts)}, step {twin.step}"
                )
            done += len(batch)
    bench.show(0.9, "runs that go free")
    measure_free_runs(bench.llm, prompts, params, lock, record)
    return record


def tables(name: str, record: Record) -> Rows:
    """Rows of one rule."""
    own: Row = {"rule": name}
    found: Rows = {
        "twin": [_summary(record)],
        "twin_steps": [_step(step, [each]) for step, each in sorted(record.steps.items())],
        "twin_groups": [
            {"axis": group.axis, "group": group.name} | total.row()
            for group, total in sorted(record.groups.items(), key=_place)
        ],
        "twin_effects": _effects(record),
        "twin_predictors": _predictors(record),
        "twin_drift": [
            {"lock_class": lock_class, "steps_since": since} | row
            for (lock_class, since), parts in sorted(record.drifts.items())
            for row in _by_layer(parts)
        ],
        "twin_changes": [
            {"age": age} | row
            for age in (0, *DELAYS)
            if age in record.changes
            for row in _by_layer(record.changes[age])
        ],
        "twin_flips": record.flips,
        "twin_free": record.free,
        "twin_growth": _bins(record.growth, "steps_since"),
        "twin_spread": _bins(record.spread, "distance"),
    }
    return {table: [own | row for row in rows] for table, rows in found.items()}


def _place(item: tuple[Group, Any]) -> tuple[str, int]:
    group = item[0]
    if group.axis == "age":
        return group.axis, LOCK_CLASSES.index(group.name)
    return group.axis, int(group.name) if group.axis == "layer" else 0


def _summary(record: Record) -> Row:
    parted = [row["first_difference"] for row in record.free if row["first_difference"] is not None]
    controls = [row["control_agreement"] for row in record.free if row["control_agreement"] is not None]
    frozen = sum(step.num_frozen for step in record.steps.values())
    return {
        "num_prompts": len(record.free),
        "active_ratio": float(np.mean([row["active_ratio"] for row in record.free])),
        **_step(None, list(record.steps.values())),
        "ghost_share": sum(step.num_ghosts for step in record.steps.values()) / max(frozen, 1),
        "first_flip": float(np.median(list(record.first_flip.values()))) if record.first_flip else None,
        "prompts_that_part": len(parted),
        "first_difference": float(np.median(parted)) if parted else None,
        "agreement": float(np.mean([row["agreement"] for row in record.free])),
        "control_agreement": float(np.mean(controls)) if controls else None,
    }


def _step(number: int | None, steps: Sequence[Any]) -> Row:
    """Of one step or several."""
    kl = np.concatenate([part for step in steps for part in step.kl])
    total = {
        name: sum(getattr(step, name) for step in steps) for name in ("num_flips", "num_commits", "num_commit_flips")
    }
    return {
        **({} if number is None else {"step": number}),
        "masked_rows": len(kl),
        "kl_mean": float(kl.mean(dtype=np.float64)) if len(kl) else None,
        **{f"kl_{name}": float(np.quantile(kl, at)) if len(kl) else None for name, at in QUANTILES},
        "flip_rate": total["num_flips"] / max(len(kl), 1),
        "commit_flip_rate": total["num_commit_flips"] / max(total["num_commits"], 1),
        "frozen_ratio": sum(step.num_frozen for step in steps) / sum(step.num_positions for step in steps),
    }  # fmt: skip


def _effects(record: Record) -> list[Row]:
    """The harm one lock does on its own, by class."""
    rows = []
    for lock_class in LOCK_CLASSES:
        sums, harm = Sums(), []
        for row in record.effects:
            if row["lock_class"] == lock_class:
                sums.add(row["prompt"], row["harm"], 1)
                harm.append(row["harm"])
        if harm:
            levels = {"harm_median": float(np.median(harm)), "harm_p95": float(np.quantile(harm, 0.95))}
            harmful = {"harmful_share": float((np.array(harm) > 0).mean())}
            rows.append({"lock_class": lock_class, "locks": len(harm), **sums.mean("harm_mean"), **levels, **harmful})
    return rows


def _predictors(record: Record) -> list[Row]:
    """Spearman's rank correlation of a lock's harm with what is known of the lock, over single locks."""
    harm = np.array([row["harm"] for row in record.effects])
    rows = []
    for column in [
        name for name in (record.effects[0] if record.effects else ()) if name in PREDICTORS or "_drift_" in name
    ]:
        value = np.array([row[column] for row in record.effects], dtype=np.float64)
        known = np.isfinite(value)
        part, _, layer = column.partition("_drift_")
        name, number = (f"{part} drift", int(layer)) if layer else (column, None)
        found = spearman(value[known], harm[known])
        rows.append({"predictor": name, "layer": number, "locks": int(known.sum()), "spearman": found})
    return rows


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Rank correlation, equal values sharing their mean rank; None where it is not defined."""
    if len(a) < MIN_PAIRS:
        return None
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((counts.cumsum() - (counts - 1) / 2)[inverse])
    return None if min(each.std() for each in ranks) == 0 else float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _by_layer(parts: Sequence[NDArray[np.float32]]) -> list[Row]:
    # [num_layers, 2, k]
    values = np.concatenate(parts, axis=2)
    return [
        {
            "part": part, "layer": layer + 1, "num": values.shape[2], "median": float(np.median(values[layer, index])),
            "p90": float(np.quantile(values[layer, index], 0.9)),
        }
        for index, part in enumerate(("key", "value"))
        for layer in range(values.shape[0])
    ]  # fmt: skip


def _bins(table: dict[tuple[str, int], Sums], start: str) -> list[Row]:
    return [
        {"run": run, start: low, "tokens": sums.number, **sums.mean("share")}
        for (run, low), sums in sorted(table.items())
    ]


STUDY: Final = Study(
    number="open",
    name="twin",
    title="What locking does to the rows that are still masked",
    method="Every prompt is decoded without locks. For each rule a second run with locks repeats every unmasking "
    "decision, position and token, so both read the same canvas in every step and differ by frozen keys and values "
    "alone; the rows that are still masked are compared: KL(no lock || locks) over the full vocabulary, and whether "
    "the proposed token is another one (a flip). Groups of locks are frozen on their own in every step that "
    "{group_every} divides, with everything else fresh; single locks are set free one at a time, and the harm of a "
    "lock is how far the divergence of its step falls. Runs that make their own decisions follow, each beside a "
    "control without locks that is only forced to take the locked run's first different decision.",
    settings=Settings(),
    quick=Settings(num_prompts=2, lengths=lengths(16), group_every=8, num_probes=1, num_scenes=2, max_locks=16),
    grid=grid,
    tables=(
        Table("twin", "Each rule over all steps and prompts."),
        Table("twin_groups", "Divergence of the masked rows with only one group of the locks frozen: by age at lock "
              "(0: ghosts), the half that drifted less or more, and all locks in one layer only. KL per lock with a "
              "95 % bootstrap interval over sequences."),
        Table("twin_effects", "Harm of a single lock: nats by which the divergence of its step falls if it is free."),
        Table("twin_predictors", "Spearman's rank correlation, over single locks, of that harm with what is known."),
        *(Table(f"twin_{name}", columns=None)
          for name in ("steps", "drift", "changes", "flips", "free", "growth", "spread")),
    ),
    plots=(
        Plot("twin", "Divergence of masked rows step by step; of one class of locks frozen alone, and in one layer; "
             "tokens that differ from no lock in runs that make their own decisions (dashed: the control).", picture(
            Panel("twin_steps", "step", "kl_mean", "rule", log="y"),
            Points("twin_groups", "rule group", "kl_per_lock", log="x", only={"axis": "age"}),
            Panel("twin_groups", "group", "kl_mean", "rule", log="y", only={"axis": "layer"}),
            Panel("twin_growth", "steps_since", "share", "rule run"),
            Panel("twin_spread", "distance", "share", "rule run"),
        )),
    ),
)  # fmt: skip
