"""Theorem 1 of the paper held against runs without locks: its constants, its bound, what else bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from studies.bench import Bench, Length, lengths
from studies.bounds import LIPSCHITZ, averaged, by_age, by_uncertainty, lipschitz_ratios, summarise
from studies.locked_rows import FLOOR, LockedRows, joined, locked_rows
from studies.plots import Panel, picture
from studies.study import Cell, Plot, Row, Rows, Study, Table
from surelock.measure.instrumented import InstrumentedDecoder as DenseDecoder
from surelock.measure.prompt_sets import check_room, task_canvases, text_canvases
from surelock.measure.trace import Integers, Trace, lock_steps, trace_all
from surelock.params import LockParams, SamplingParams

# Below what divergences of a half-precision model are rounding.
HALF_PRECISION_FLOOR: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Texts or tasks, how many, N_gen and steps; epsilons of the permanent rule; the deviation implied ones are for."""

    prompts: tuple[str, ...] = ("text", "tasks")
    num_prompts: int = 128
    num_prompt_tokens: int = 64
    lengths: tuple[Length, ...] = lengths(64)
    thresholds: tuple[float, ...] = (5e-4, 5e-3, 5e-2)
    delta: float = 0.05


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each kind of prompt."""
    return [
        Cell(name=f"{kind}, N_gen/steps {length}", measure=partial(measure, bench, settings, kind, length))
        for kind in settings.prompts
        if kind == "text" or bench.is_chat
        for length in settings.lengths[:1]
    ]  # fmt: skip


def measure(bench: Bench, settings: Settings, kind: str, length: Length) -> Rows:
    """Decode without locks, and look at every position where the rule would have locked it."""
    llm, num = bench.llm, settings.num_prompts
    if kind == "text":
        canvases = text_canvases(llm, num, num_prompt_tokens=settings.num_prompt_tokens, path=bench.options.prompts)
    else:
        canvases = task_canvases(llm, num, seed=bench.seed)
    check_room(canvases, length.num_generated, llm.config.max_sequence_length)
    params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, seed=bench.seed, lock=None)
    runs = trace_all(
        DenseDecoder(llm.transformer), canvases, params,
        progress=lambda done, total: bench.show(0.9 * done / total, f"{done} of {total} prompts"),
    )  # fmt: skip
    floor = FLOOR if llm.dtype == torch.float32 else HALF_PRECISION_FLOOR
    found = hold(runs, settings.thresholds, delta=settings.delta, floor=floor)
    return {table: [{"prompts": kind} | row for row in rows] for table, rows in found.items()}


def hold(runs: list[Trace], thresholds: tuple[float, ...], *, delta: float, floor: float) -> Rows:
    """Hold the theorem against runs without locks; tables by uncertainty and step are of the first threshold."""
    found: Rows = {"theorem": [], "theorem_uncertainty": [], "theorem_age": list(by_age(runs)), "theorem_mean": []}
    first: dict[str, Any] = {}
    for threshold in thresholds:
        rows, locks = _locked(runs, threshold, floor)
        num_prompt, num_all = sum(int(run.given.sum()) for run in runs), sum(run.given.size for run in runs)
        for positions, where, num in (
            ("all", np.ones(len(rows), dtype=bool), num_all),
            ("generated", ~rows.is_prompt, num_all - num_prompt),
            ("prompt", rows.is_prompt, num_prompt),
        ):
            numbers = summarise(rows.where(where), delta=delta, epsilon=threshold)
            key: Row = {
                "kl_threshold": threshold,
                "positions": positions,
                "locked_share": int(where.sum()) / max(num, 1),
            }
            found["theorem"].append(key | numbers)
        if not first:
            first = {"rows": rows, "locks": locks, "implied": found["theorem"][0]["implied_epsilon"]}
    found["theorem_uncertainty"] = list(by_uncertainty(first["rows"], runs[0].vocab_size))
    mean = averaged(runs, first["locks"], floor=floor)
    found["theorem_mean"] = [{"step": step, "kl_mean": kl} for step, kl in enumerate(mean["kl"], start=2)]
    ratios = lipschitz_ratios(runs)
    implied = _locked(runs, first["implied"], floor) if np.isfinite(first["implied"]) else None
    found["theorem_constants"] = [
        {
            "rewritten": int(sum(int(run.rewritten.sum()) for run in runs)),
            "rho_of_mean": mean["rho"],
            "rising_of_mean": mean["rising"],
            "lipschitz_max": float(ratios.max()) if len(ratios) else None,
            "lipschitz_above": float((ratios > LIPSCHITZ).mean()) if len(ratios) else None,
            "implied_epsilon": first["implied"],
            "implied_locked_share": None
            if implied is None
            else sum(int((at > 0).sum()) for at in implied[1]) / num_all,
        }
    ]
    return found


def _locked(runs: list[Trace], threshold: float, floor: float) -> tuple[LockedRows, list[Integers]]:
    rule = replace(LockParams.permanent(), kl_threshold=threshold, allow_noise_eps=True)
    steps = [lock_steps(run, rule) for run in runs]
    return joined([locked_rows(run, at, floor=floor) for run, at in zip(runs, steps, strict=True)]), steps


STUDY: Final = Study(
    number="open",
    name="theorem",
    title="Theorem 1 held against runs without locks",
    method="Prompts are decoded without locks, and for every position the step is noted at which the permanent rule "
    "would have locked it, so both posteriors the theorem compares are of one run. A1: a committed token never "
    "changes. A2: D_s <= rho D_(s-1) after the lock, with D_s = KL(p_s || p_(s-1)). A3: ||z_s - z_(s-1)|| <= L "
    "sqrt(D_(s-1)). A4: log softmax is sqrt 2-Lipschitz. The bound then is C_tail sqrt(D) with C_tail = sqrt 2 L / (1 "
    "- sqrt rho); in place of 1 / (1 - sqrt rho) the sum that it bounds is measured. Implied thresholds are for a "
    "deviation of {delta}.",
    settings=Settings(),
    quick=Settings(num_prompts=4, lengths=lengths(16)),
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
             "beside the actual deviation by threshold.", picture(
            Panel("theorem_age", "age", "kl_p99 kl_p50", "prompts", log="y"),
            Panel("theorem_mean", "step", "kl_mean", "prompts", log="y"),
            Panel("theorem_uncertainty", "uncertainty_median", "lagged_l_p95", "prompts", log="xy"),
            Panel("theorem", "kl_threshold", "implied_delta log_gap_p95", "prompts", log="xy",
                  only={"positions": "all"}),
        )),
    ),
)  # fmt: skip
