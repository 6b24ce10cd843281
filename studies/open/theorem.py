"""Theorem 1 of the paper held against runs without locks: its constants, its bound, what else bounds."""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
import torch

from studies import bounds
from studies.bench import Bench, Length, lengths
from studies.plots import Panel, Plot
from studies.study import Cell, Row, Rows, Settings, Study, Table, average, quantile
from surelock.measure.instrumented import InstrumentedDecoder
from surelock.measure.prompt_sets import check_room, task_canvases, text_canvases
from surelock.measure.trace import Integers, Trace, lock_steps, trace_all
from surelock.params import LockParams, SamplingParams

# Below what divergences of a half-precision model are rounding.
HALF_PRECISION_FLOOR: Final = 1e-6


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each kind of prompt."""
    return [
        Cell(f"{kind}, N_gen/steps {length}", partial(measure, bench, settings, kind, length))
        for kind in settings.prompts
        if kind == "text" or bench.is_chat
        for length in settings.lengths[:1]
    ]  # fmt: skip


def measure(bench: Bench, settings: Settings, kind: str, length: Length) -> Rows:
    """Decode without locks, and look at every position where the rule would have locked it."""
    llm, num, size, path = bench.llm, settings.num_prompts, settings.num_prompt_tokens, bench.options.prompts
    if kind == "text":
        canvases = text_canvases(llm, num, num_prompt_tokens=size, path=path)
    else:
        canvases = task_canvases(llm, num, seed=bench.seed)
    check_room(canvases, length.num_generated, llm.config.max_sequence_length)
    params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, seed=bench.seed, lock=None)
    runs = trace_all(
        InstrumentedDecoder(llm.transformer), canvases, params,
        progress=lambda done, total: bench.show(0.9 * done / total, f"{done} of {total} prompts"),
    )  # fmt: skip
    floor = bounds.FLOOR if llm.dtype == torch.float32 else HALF_PRECISION_FLOOR
    found = hold(runs, settings.thresholds, delta=settings.delta, floor=floor)
    return {table: [{"prompts": kind} | row for row in rows] for table, rows in found.items()}


def hold(runs: list[Trace], thresholds: tuple[float, ...], *, delta: float, floor: float) -> Rows:
    """Hold the theorem against runs without locks; tables by uncertainty and step are of the first threshold."""
    num_prompt, num_all = sum(int(run.given.sum()) for run in runs), sum(run.given.size for run in runs)
    table: list[Row] = []
    held = {threshold: _locked(runs, threshold, floor) for threshold in thresholds}
    for threshold, (rows, _) in held.items():
        for positions, where, num in (
            ("all", np.ones(len(rows), dtype=bool), num_all),
            ("generated", ~rows.is_prompt, num_all - num_prompt),
            ("prompt", rows.is_prompt, num_prompt),
        ):
            numbers = bounds.summarise(rows.where(where), delta=delta, epsilon=threshold)
            key: Row = {"kl_threshold": threshold, "positions": positions}
            table.append(key | {"locked_share": int(where.sum()) / max(num, 1)} | numbers)
    rows, locks = held[thresholds[0]]
    mean, ratios = bounds.averaged(runs, locks, floor=floor), bounds.lipschitz_ratios(runs)
    implied, share = table[0]["implied_epsilon"], None
    if np.isfinite(implied):
        share = sum(int((at > 0).sum()) for at in _locked(runs, implied, floor)[1]) / num_all
    constants: Row = {
        "rewritten": int(sum(int(run.rewritten.sum()) for run in runs)),
        "rho_of_mean": mean["rho"], "rising_of_mean": mean["rising"],
        "lipschitz_max": quantile(ratios, 1.0),
        "lipschitz_above": average(ratios > bounds.LIPSCHITZ),
        "implied_epsilon": implied, "implied_locked_share": share,
    }  # fmt: skip
    return {
        "theorem": table, "theorem_constants": [constants], "theorem_age": list(bounds.by_age(runs)),
        "theorem_uncertainty": list(bounds.by_uncertainty(rows, runs[0].vocab_size)),
        "theorem_mean": [{"step": step, "kl_mean": kl} for step, kl in enumerate(mean["kl"], start=2)],
    }  # fmt: skip


def _locked(runs: list[Trace], threshold: float, floor: float) -> tuple[bounds.LockedRows, list[Integers]]:
    rule = LockParams(kl_threshold=threshold, allow_noise_eps=True, refresh=None)
    steps = [lock_steps(run, rule) for run in runs]
    return bounds.joined([bounds.locked_rows(run, at, floor=floor) for run, at in zip(runs, steps, strict=True)]), steps


STUDY = Study(
    name="theorem", title="Theorem 1 held against runs without locks",
    method="Prompts are decoded without locks, and for every position the step is noted at which the permanent rule "
    "would have locked it, so both posteriors the theorem compares are of one run. A1: a committed token never "
    "changes. A2: D_s <= rho D_(s-1) after the lock, with D_s = KL(p_s || p_(s-1)). A3: ||z_s - z_(s-1)|| <= L "
    "sqrt(D_(s-1)). A4: log softmax is sqrt 2-Lipschitz. The bound then is C_tail sqrt(D) with C_tail = sqrt 2 L / (1 "
    "- sqrt rho); in place of 1 / (1 - sqrt rho) the sum that it bounds is measured. Implied thresholds are for a "
    "deviation of {delta}.",
    settings={
        "prompts": ("text", "tasks"), "num_prompts": 128, "num_prompt_tokens": 64, "lengths": lengths(64),
        "thresholds": (5e-4, 5e-3, 5e-2), "delta": 0.05,
    },
    quick={"num_prompts": 4, "lengths": lengths(16)},
    grid=grid,
    tables=(
        Table("theorem", "Quantiles are over positions (95 % where the theorem wants a constant).",
              "prompts kl_threshold positions locked_share rows rho_median a2_holds rising_steps tail_p95 "
              "lagged_l_p95 c_tail implied_delta implied_epsilon log_gap_p95 c_tail_coverage c_tail_slack tv_p95 "
              "tv_sum_coverage tv_sum_slack"),
        Table("theorem_constants", "A1, A2 of the mean over active positions, A4, and the implied threshold."),
        Table("theorem_uncertainty", "The least L of each position, by uncertainty at the lock."),
        Table("theorem_age", "D over generated positions by age: 0 is the step that commits them.", None),
        Table("theorem_mean", "Mean D over positions that are not locked.", None),
    ),
    plots=(
        Plot("theorem", "D by age since unmasking, its mean over active positions, L by uncertainty, and the bound "
             "beside the actual deviation by threshold.",
            Panel("theorem_age", "age", "kl_p99 kl_p50", "prompts", log="y"),
            Panel("theorem_mean", "step", "kl_mean", "prompts", log="y"),
            Panel("theorem_uncertainty", "uncertainty_median", "lagged_l_p95", "prompts", log="xy"),
            Panel("theorem", "kl_threshold", "implied_delta log_gap_p95", "prompts", log="xy",
                  only={"positions": "all"}),
        ),
    ),
)  # fmt: skip
