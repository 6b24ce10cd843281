"""Milliseconds of a step against the rows it computes, beside the least time the machine could take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from surelock.bench.driving import NUM_WARM_UP_STEPS, Hold, Job, bench_config, held_driver, held_ms
from surelock.bench.result import BenchResult, Progress, Row, no_progress
from surelock.bench.roofline import break_even_rows, measure_limits, step_floor
from surelock.bench.subject import Subject, check_requests
from surelock.errors import ParameterError
from surelock.params import SamplingParams

MIN_ROWS: Final = 8
NUM_STEPS: Final = 32

METHOD: Final = (
    "A scripted lock holds the rows of each request constant and measures nothing, so a time is that of the forward, "
    "the head over the masked rows and unmasking. Medians over runs of up to 32 steps. Floor: the larger of FLOPs / "
    "rate of a large square product and weight bytes / rate of a copy, both measured in the same run."
)


def run_steps(
    subject: Subject,
    *,
    num_requests: Sequence[int],
    num_positions: int,
    num_points: int = 8,
    progress: Progress = no_progress,
) -> BenchResult:
    """Time steps of `MIN_ROWS` rows a request up to all of num_positions, for each number of requests.

    Raises:
        ParameterError: the canvas is longer than the model's limit or too short, or a number of requests is not
            from 1 to 1024.
    """
    subject.check_length("--positions", num_positions)
    if num_positions < 2 * MIN_ROWS:
        raise ParameterError(f"--positions is {num_positions}; it must be at least {2 * MIN_ROWS}")
    for num in num_requests:
        check_requests("--requests holds", num)
    progress("limits of the machine")
    limits = measure_limits(subject.device, subject.model.dtype)
    grid = sorted({round(rows) for rows in np.geomspace(MIN_ROWS, num_positions, num_points)})
    rows = []
    for num in num_requests:
        driver = held_driver(subject, bench_config(num, num_positions))
        prompt = subject.prompt(0, MIN_ROWS)
        params = SamplingParams(max_tokens=num_positions - MIN_ROWS, lock=None)
        driver.warm_up([Job(prompt, params)] * num, num * num_positions)
        for each in grid:
            progress(f"{num} x {each} rows")
            ms = held_ms(driver, subject, [Hold(num_positions, each, each)] * num, num_steps=NUM_STEPS)
            num_head = num * _mean_masks(each, num_positions)
            floor = step_floor(
                subject.model, limits, num_rows=num * each, num_head_rows=num_head, num_positions=num_positions
            )
            row: Row = {
                "requests": num,
                "positions": num_positions,
                "rows_per_request": each,
                "rows": num * each,
                "head_rows": num_head,
                "ms": ms,
                "flops_floor_ms": floor.flops_ms,
                "weights_floor_ms": floor.weights_ms,
                "floor_ms": floor.ms,
                "floor_share": floor.ms / ms,
                "ms_above_weights": ms - floor.weights_ms,
            }
            rows.append(row)
    facts = {
        **subject.facts,
        "lock": "scripted: rows are held constant, nothing is measured",
        **limits.facts,
        "break_even_rows": break_even_rows(subject.config, subject.model.dtype.itemsize, limits),
    }
    return BenchResult("steps", METHOD, facts, rows)


def _mean_masks(num_rows: int, num_positions: int) -> float:
    """Masked rows of a request in the steps that are timed, on average; see `held_ms`."""
    num_masked = min(num_rows, num_positions - 1)
    num_steps = min(NUM_STEPS, num_masked - NUM_WARM_UP_STEPS - 1)
    return num_masked - NUM_WARM_UP_STEPS - (num_steps - 1) / 2
