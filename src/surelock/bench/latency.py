"""Milliseconds per step and wall-clock of a batch, with locks and without, against the bound the engine itself sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from surelock.bench.baselines import Baseline
from surelock.bench.driving import (
    Driver,
    Hold,
    Job,
    WholeRun,
    bench_config,
    held_driver,
    held_ms,
    run_to_end,
    steady_ms,
)
from surelock.bench.result import BenchResult, Progress, Row, no_progress
from surelock.bench.subject import Subject, check_requests
from surelock.errors import ParameterError, shown
from surelock.flops import request_flops
from surelock.params import SamplingParams

# Fewer tokens leave no steady steps to time.
MIN_TOKENS: Final = 16
MIN_HELD_ROWS: Final = 8
NUM_BOUND_POINTS: Final = 9

METHOD: Final = (
    "One token a step. Unlocked: cost per step is constant but for the head, so at least 32 steady steps are timed "
    "around the step where half of the generated tokens are given, before and after the locked run in the same "
    "process, and multiplied by the number of steps. Locked: the whole run, wall-clock until the device is done, "
    "after a first run that captures graphs. Bound: the speed-up if measuring and locking cost nothing, rebuilt from "
    "the measured time of steps that hold as many rows and masks as the locked run had at that step. unlocked_drift: "
    "after / before; far from 1, the machine was busy with something else. tokens_per_s counts generated tokens only."
)


@dataclass(frozen=True, slots=True)
class Setting:
    """So many requests of so many generated tokens, decoded together."""

    num_requests: int
    max_tokens: int

    @classmethod
    def parse(cls, text: str) -> Setting:
        """From REQUESTSxTOKENS, for example 8x256.

        Raises:
            ParameterError: it is something else, or out of the limits.
        """
        num_requests, cross, max_tokens = text.strip().partition("x")
        if not (cross and num_requests.isdecimal() and max_tokens.isdecimal() and len(text) < 16):
            raise ParameterError(f"--settings holds {shown(text)}; write REQUESTSxTOKENS, for example 8x256")
        setting = cls(int(num_requests), int(max_tokens))
        check_requests(f"--settings holds {shown(text)}: the number of requests is", setting.num_requests)
        if setting.max_tokens < MIN_TOKENS:
            raise ParameterError(f"--settings holds {shown(text)}; tokens must be at least {MIN_TOKENS}")
        return setting


def run_latency(
    subject: Subject,
    settings: Sequence[Setting],
    *,
    num_prompt: int = 64,
    with_bound: bool = True,
    baseline: Baseline | None = None,
    progress: Progress = no_progress,
) -> BenchResult:
    """Measure every setting.

    Args:
        num_prompt: tokens of every prompt.
        with_bound: also measure held steps for the bound.
        baseline: a peer to time beside it.

    Raises:
        ParameterError: a canvas is longer than the model's limit.
    """
    for setting in settings:
        subject.check_length("--settings", num_prompt + setting.max_tokens)
    rows, details = [], {}
    for setting in settings:
        name = f"{setting.num_requests}x{setting.max_tokens}"
        row, details[name] = _compare(subject, setting, num_prompt, with_bound, baseline, progress)
        rows.append(row)
    facts: dict[str, Any] = {**subject.facts, "prompt_tokens": num_prompt}
    if baseline is not None:
        facts["baseline"] = baseline.facts
    return BenchResult("latency", METHOD, facts, rows, details)


def _compare(
    subject: Subject,
    setting: Setting,
    num_prompt: int,
    with_bound: bool,
    baseline: Baseline | None,
    progress: Progress,
) -> tuple[Row, dict[str, Any]]:
    num, num_tokens = setting.num_requests, setting.max_tokens
    name = f"{num} x {num_tokens} tokens"
    num_positions = num_prompt + num_tokens
    config = bench_config(num, num_positions)
    driver = Driver(subject.model, config, subject.rule)
    params = SamplingParams(max_tokens=num_tokens, lock=subject.lock)
    jobs = [Job(subject.prompt(index, num_prompt), params) for index in range(num)]
    progress(f"{name}: warming up")
    driver.warm_up(jobs, num * num_positions)
    if driver.captures:
        run_to_end(driver, jobs)

    # Over a run the masks are, on average, half of the tokens.
    num_masked = (num_tokens + 1) / 2
    progress(f"{name}: without locks")
    before = steady_ms(driver, subject, num, num_positions, num_masked)
    progress(f"{name}: with locks")
    locked = run_to_end(driver, jobs)
    progress(f"{name}: without locks, again")
    after = steady_ms(driver, subject, num, num_positions, num_masked)
    unlocked_ms = (before + after) / 2
    unlocked_seconds = unlocked_ms * num_tokens / 1000
    speed_up = unlocked_seconds / locked.seconds
    row: Row = {
        "requests": num,
        "max_tokens": num_tokens,
        "unlocked_ms_per_step": unlocked_ms,
        "unlocked_drift": after / before,
        "locked_ms_per_step": 1000 * locked.seconds / num_tokens,
        "speed_up": speed_up,
        "unlocked_tokens_per_s": num * num_tokens / unlocked_seconds,
        "locked_tokens_per_s": num * num_tokens / locked.seconds,
        **_shares(subject, locked),
    }
    details: dict[str, Any] = {
        "unlocked_ms_before_and_after": [before, after],
        "locked_seconds": locked.seconds,
        "active_rows": _rows_per_step(locked),
        "step_ends_s": locked.marks,
        "num_graphs": driver.engine.num_graphs,
        "graph_bytes": driver.engine.graph_bytes,
    }
    if with_bound:
        progress(f"{name}: bound")
        points = _held_points(subject, locked, held_driver(subject, config), jobs)
        details["held_ms"] = points
        row |= _bound(points, details["active_rows"], unlocked_ms, speed_up)
    if baseline is not None:
        progress(f"{name}: {baseline.name}")
        ms = baseline.step_ms(num, num_prompt, num_tokens)
        row["baseline_ms_per_step"] = ms
        row["locked_against_baseline"] = None if ms is None else ms * num_tokens / 1000 / locked.seconds
        row["unlocked_against_baseline"] = None if ms is None else ms / unlocked_ms
    return row, details


def _shares(subject: Subject, run: WholeRun) -> dict[str, float]:
    """Active ratio, and FLOPs with locks as a share of those without."""
    flops = [
        request_flops(
            subject.config,
            active_rows=request.active_rows,
            num_positions=request.num_positions,
            masked_rows=request.num_proposed,
            candidate_rows=request.num_scored,
        )
        for request in run.requests
    ]
    num_computed = sum(sum(request.active_rows) for request in run.requests)
    num_all = sum(request.num_positions * len(request.active_rows) for request in run.requests)

    def ratio(mode: str) -> float:
        return sum(one[mode]["locked"] for one in flops) / sum(one[mode]["base"] for one in flops)

    return {
        "active_ratio": num_computed / num_all,
        "exact_flops_ratio": ratio("exact"),
        "full_flops_ratio": ratio("full"),
    }


def _rows_per_step(run: WholeRun) -> list[int]:
    """Rows of all requests in each step."""
    return [sum(rows) for rows in zip(*(request.active_rows for request in run.requests), strict=True)]


def _held_points(subject: Subject, run: WholeRun, driver: Driver, jobs: Sequence[Job]) -> list[dict[str, float]]:
    """Time of a step that computes what some steps of the run computed, and measures nothing."""
    num_steps = run.requests[0].num_steps
    # Later steps have too few rows to hold for long; they cost what the last one that can be held does.
    last = max(
        step
        for step in range(1, num_steps + 1)
        if all(request.active_rows[step - 1] >= MIN_HELD_ROWS for request in run.requests)
    )
    driver.warm_up(jobs, sum(job.num_positions for job in jobs))
    points = []
    # Step 3 is the first without the prompt.
    for step in sorted({min(3, last), *(round(step) for step in np.linspace(1, last, NUM_BOUND_POINTS))}):
        holds = [
            Hold(request.num_positions, request.active_rows[step - 1], num_steps - step + 1) for request in run.requests
        ]
        rows = sum(hold.num_rows for hold in holds)
        points.append({"step": step, "rows": rows, "ms": held_ms(driver, subject, holds)})
    return points


def _bound(points: Sequence[dict[str, float]], active_rows: Sequence[int], unlocked_ms: float, speed_up: float) -> Row:
    """Unlocked time over that of steps as fast as held ones; between points a step costs by its rows."""
    known = sorted((point["rows"], point["ms"]) for point in points)
    held = np.interp(active_rows, [rows for rows, _ in known], [ms for _, ms in known])
    bound = unlocked_ms / float(held.mean())
    return {"bound": bound, "bound_reached": speed_up / bound}
