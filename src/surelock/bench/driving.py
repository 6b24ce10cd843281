"""Engines, and the times of their steps.

This is the only module here that knows how an engine is made, warmed up and waited for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from surelock.bench.schedules import HeldRows
from surelock.bench.subject import Subject
from surelock.config import EngineConfig
from surelock.decoding.protocols import LockingRule
from surelock.engine.engine import Engine
from surelock.engine.request import Request
from surelock.errors import NonFiniteLogitsError
from surelock.models.transformer import Transformer
from surelock.params import LockParams, SamplingParams

# Steps before the clock starts: the first computes everything, and the next ones may capture graphs.
NUM_WARM_UP_STEPS = 4
NUM_TIMED_STEPS = 32


@dataclass(frozen=True, slots=True)
class Job:
    """One request: its prompt, and what is asked."""

    prompt: list[int]
    params: SamplingParams

    @property
    def num_positions(self) -> int:
        """Length of its canvas."""
        return len(self.prompt) + self.params.max_tokens


class Driver:
    """One engine that is given jobs again and again, so that memory and captured graphs are there when it counts.

    Args:
        model: the transformer.
        config: of the engine.
        rule: in place of the engine's own.
    """

    def __init__(self, model: Transformer, config: EngineConfig, rule: LockingRule | None = None) -> None:
        self._device = model.device
        self.engine = Engine(model, config, locking=rule)

    def start(self, jobs: Sequence[Job]) -> list[Request]:
        """Queue the jobs. Those before must have finished or been dropped."""
        return [self.engine.add_request(job.prompt, job.params) for job in jobs]

    def warm_up(self, jobs: Sequence[Job], num_rows: int) -> None:
        """Allocate memory for jobs of these sizes, and capture forwards of up to num_rows rows."""
        requests = self.start(jobs)
        self.engine.step(watched=False)
        self.drop(requests)
        self.engine.warm_up(num_rows)

    @property
    def captures(self) -> bool:
        """Whether the first of several equal runs may capture graphs that the others find."""
        return self._device.type == "cuda"

    def drop(self, requests: Sequence[Request]) -> None:
        """End requests that have been measured."""
        for request in requests:
            self.engine.abort_request(request)
        while self.engine.has_unfinished:
            self.engine.step(watched=False)
        self.synchronize()

    def synchronize(self) -> None:
        """Wait until the device is done."""
        synchronize(self._device)


def bench_config(num_requests: int, num_positions: int) -> EngineConfig:
    """Lets so many requests of so many positions run together from their first step on."""
    return EngineConfig(max_batch_size=num_requests, max_rows=num_requests * num_positions)


def synchronize(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True, slots=True)
class WholeRun:
    """A run of some requests from the first step to the last.

    Attributes:
        seconds: wall-clock until the device was done.
        marks: seconds at the end of each step as the host saw it.
    """

    requests: list[Request]
    seconds: float
    marks: list[float]


def run_to_end(driver: Driver, jobs: Sequence[Job]) -> WholeRun:
    """Decode the jobs.

    Raises:
        NonFiniteLogitsError: a request failed, so its time means nothing.
    """
    requests = driver.start(jobs)
    driver.synchronize()
    marks = []
    start = time.perf_counter()
    while driver.engine.has_unfinished:
        driver.engine.step(watched=False)
        marks.append(time.perf_counter() - start)
    driver.synchronize()
    seconds = time.perf_counter() - start
    if any(request.failed for request in requests):
        raise NonFiniteLogitsError("the model's logits were NaN or infinite: check the weights or use --dtype float32")
    return WholeRun(requests, seconds, marks)


def steady_ms(driver: Driver, subject: Subject, num_requests: int, num_positions: int, num_masked: float) -> float:
    """Median milliseconds of a step without locks over canvases of which num_masked are masked, on average.

    `NUM_TIMED_STEPS` steps or more are timed, in runs as long as the masks last.
    """
    num_steps = max(1, min(NUM_TIMED_STEPS, int(2 * num_masked) - 2 * NUM_WARM_UP_STEPS - 1))
    num_first = round(num_masked + (num_steps - 1) / 2) + NUM_WARM_UP_STEPS
    assert num_first <= num_positions
    params = SamplingParams(max_tokens=num_first, lock=None)
    jobs = [Job(subject.prompt(i, num_positions - num_first), params) for i in range(num_requests)]
    return _median_ms(driver, jobs, num_steps, NUM_TIMED_STEPS)


@dataclass(frozen=True, slots=True)
class Hold:
    """A request that keeps num_rows rows of num_positions, num_masked of them masked when the clock starts."""

    num_positions: int
    num_rows: int
    num_masked: int


def held_ms(driver: Driver, subject: Subject, holds: Sequence[Hold], *, num_steps: int = 16) -> float:
    """Median milliseconds of a step that computes the holds' rows.

    The driver's rule must be `HeldRows`, which says whether a step measures anything for locking. A run has fewer than
    num_steps timed steps if there are not that many masks; there are more runs then.
    """
    # The last step of a run never locks and is not like the others.
    masks = [min(hold.num_masked + NUM_WARM_UP_STEPS, hold.num_rows, hold.num_positions - 1) for hold in holds]
    num_each = max(1, min([num_steps, *(num - NUM_WARM_UP_STEPS - 1 for num in masks)]))
    jobs = []
    for index, (hold, num) in enumerate(zip(holds, masks, strict=True)):
        lock = LockParams.permanent(float(hold.num_rows))
        prompt = subject.prompt(index, hold.num_positions - num)
        jobs.append(Job(prompt, SamplingParams(max_tokens=num, lock=lock)))
    return _median_ms(driver, jobs, num_each, num_steps)


def held_driver(subject: Subject, config: EngineConfig, *, measures: bool = False) -> Driver:
    """A driver whose engines hold rows, and measure the divergence of the candidates if asked."""
    return Driver(subject.model, config, HeldRows(measures))


def _median_ms(driver: Driver, jobs: Sequence[Job], num_each: int, num_steps: int) -> float:
    """Median over runs of the jobs, of num_each timed steps each, until num_steps steps are timed."""
    if driver.captures:
        _timed_run(driver, jobs, num_each)
    return median(_timed_run(driver, jobs, num_each) for _ in range(-(-num_steps // num_each)))


def _timed_run(driver: Driver, jobs: Sequence[Job], num_steps: int) -> float:
    requests = driver.start(jobs)
    for _ in range(NUM_WARM_UP_STEPS):
        driver.engine.step(watched=False)
    driver.synchronize()
    start = time.perf_counter()
    for _ in range(num_steps):
        driver.engine.step(watched=False)
    driver.synchronize()
    elapsed = time.perf_counter() - start
    driver.drop(requests)
    return 1000 * elapsed / num_steps
