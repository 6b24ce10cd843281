"""Times of whole runs that are compared with each other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.decoders import NONE
from surelock.bench.driving import Driver, Job, WholeRun, bench_config, run_to_end

if TYPE_CHECKING:
    from surelock.llm import LLM


@dataclass(frozen=True, slots=True)
class Timed:
    """One run of a batch: seconds of each step, of the whole, and the share of rows computed."""

    steps: list[float]
    seconds: float
    active_ratio: float


def in_turn(llm: LLM, jobs: Mapping[str, list[Job]], num_positions: int) -> tuple[dict[str, Timed], None]:
    """Runs that advance together, a step of each at a time: whatever else the machine does meets all of them."""
    model = llm.transformer
    drivers = {name: Driver(model, bench_config(len(each), num_positions)) for name, each in jobs.items()}
    for name, each in jobs.items():
        drivers[name].warm_up(each, len(each) * num_positions)
    requests = {name: drivers[name].start(each) for name, each in jobs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    while any(driver.engine.has_unfinished for driver in drivers.values()):
        for name, driver in drivers.items():
            start = time.perf_counter()
            driver.engine.step(watched=False)
            seconds[name].append(time.perf_counter() - start)
    return {name: Timed(seconds[name], sum(seconds[name]), _active_ratio(requests[name])) for name in jobs}, None


def one_after_another(llm: LLM, jobs: Mapping[str, list[Job]], num_positions: int) -> tuple[dict[str, Timed], float]:
    """Runs each with the device to itself, and no lock again at the end; its two runs are averaged.

    Returns: the runs, and the second run without locks over the first.
    """
    driver = Driver(llm.transformer, bench_config(len(jobs[NONE]), num_positions))
    driver.warm_up(jobs[NONE], len(jobs[NONE]) * num_positions)
    for each in jobs.values():
        run_to_end(driver, each)
    found = {name: _timed(run_to_end(driver, each)) for name, each in jobs.items()}
    before, again = found[NONE], _timed(run_to_end(driver, jobs[NONE]))
    steps = [(a + b) / 2 for a, b in zip(before.steps, again.steps, strict=True)]
    return found | {NONE: Timed(steps, (before.seconds + again.seconds) / 2, 1.0)}, again.seconds / before.seconds


def _active_ratio(requests: Sequence[Any]) -> float:
    rows: int = sum(sum(request.active_rows) for request in requests)
    possible: int = sum(request.num_positions * request.num_steps for request in requests)
    return rows / possible


def _timed(run: WholeRun) -> Timed:
    # With captured graphs the host is one step ahead, so the last mark may come before the last step is done.
    num_steps = run.requests[0].num_steps
    ends = np.interp(np.arange(1, num_steps + 1), np.arange(1, len(run.marks) + 1), run.marks)
    return Timed(np.diff(ends, prepend=0.0).tolist(), run.seconds, _active_ratio(run.requests))
