"""Tokens a second of many requests of mixed sizes: continuous batching against static batches of the same engine."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import numpy as np

from surelock.bench.baselines import Baseline, padded_batches, padded_seconds
from surelock.bench.driving import Driver, Job
from surelock.bench.result import BenchResult, Progress, Row, no_progress
from surelock.bench.subject import Subject, check_requests
from surelock.config import EngineConfig
from surelock.engine.request import Request
from surelock.errors import NonFiniteLogitsError, ParameterError
from surelock.params import SamplingParams

PERCENTILES: Final = (50, 90, 99)

METHOD: Final = (
    "The same requests in the same order on every side. Continuous: up to max_running requests run, with no more rows "
    "in a step than max_rows, those of the longest static batch; a waiting one starts as soon as it fits. Static: up "
    "to batch_size waiting requests start together and all must finish before the next start. Latency is from arrival "
    "to the last token. Tokens are generated tokens only. Forwards are captured before; what else there is to capture "
    "falls to the continuous side, which runs first."
)
BASELINE_METHOD: Final = (
    "The baseline's batches are padded to their longest prompt and most tokens, and its cost per step is constant: "
    "step times measured for each shape, each times the steps of its batch. Offline only, no arrivals."
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job, and when it arrives, in seconds after the start."""

    job: Job
    at: float


def mixed_jobs(
    subject: Subject, *, num_requests: int, num_tokens: Sequence[int], num_prompt: tuple[int, int], seed: int = 0
) -> list[Job]:
    """Requests whose generated tokens are drawn from num_tokens and prompts uniformly from a range, ends included.

    Raises:
        ParameterError: a canvas would be longer than the model's limit.
    """
    subject.check_length("--tokens", num_prompt[1] + max(num_tokens))
    random = Random(seed)
    jobs = []
    for index in range(num_requests):
        params = SamplingParams(max_tokens=random.choice(num_tokens), lock=subject.lock)
        jobs.append(Job(subject.prompt(index, random.randint(*num_prompt)), params))
    return jobs


def arrivals(jobs: Sequence[Job], rate: float | None, seed: int = 0) -> list[Arrival]:
    """When each job arrives: all at once, or as a Poisson process of `rate` requests a second."""
    random, now = Random(seed), 0.0
    found = []
    for job in jobs:
        if rate is not None:
            now += random.expovariate(rate)
        found.append(Arrival(job, now))
    return found


def run_throughput(
    subject: Subject,
    jobs: Sequence[Job],
    *,
    batch_size: int,
    max_running: int | None = None,
    rate: float | None = None,
    baseline: Baseline | None = None,
    progress: Progress = no_progress,
) -> BenchResult:
    """Serve the jobs in static batches and continuously.

    Args:
        batch_size: requests of a static batch.
        max_running: requests that run together on the continuous side at most; None for 4 x batch_size. Their rows in a
            step are never more than those of a static batch of the longest requests.
        rate: requests a second that arrive; None: all are there at the start.
        baseline: a peer to time beside it.

    Raises:
        ParameterError: batch_size or max_running is not from 1 to 1024 or the first is larger, or a baseline is asked
            for together with arrivals.
        NonFiniteLogitsError: a request failed, so its time means nothing.
    """
    limit = 4 * batch_size if max_running is None else max_running
    check_requests("--batch-size is", batch_size)
    check_requests("--max-running is", limit)
    if batch_size > limit:
        raise ParameterError(f"--batch-size is {batch_size}, more than --max-running {limit}; raise the latter")
    if baseline is not None and rate is not None:
        raise ParameterError("--baseline has no arrivals, it is computed for all requests at once; leave --rate out")
    incoming = arrivals(jobs, rate)
    longest = sorted(jobs, key=lambda job: -job.num_positions)
    max_rows = sum(job.num_positions for job in longest[:batch_size])
    driver = Driver(subject.model, EngineConfig(max_batch_size=limit, max_rows=max_rows), subject.rule)
    progress("warming up")
    driver.warm_up(longest[:limit], max_rows)
    # First, because what remains to be captured falls to it.
    progress("continuous batching")
    continuous = _serve(driver, incoming, None)
    progress(f"static batches of {batch_size}")
    sides = {"static": _serve(driver, incoming, batch_size), "continuous": continuous}
    rows = [_row(side, jobs, own.seconds, own.latencies, continuous.seconds) for side, own in sides.items()]
    details: dict[str, Any] = {f"{side}_latencies_s": served.latencies for side, served in sides.items()}
    facts: dict[str, Any] = {
        **subject.facts,
        "requests": len(jobs),
        "batch_size": batch_size,
        "max_running": limit,
        "max_rows": max_rows,
        "requests_per_s_offered": rate,
        "max_tokens": [job.params.max_tokens for job in jobs],
        "prompt_tokens": [len(job.prompt) for job in jobs],
    }
    method = METHOD
    if baseline is not None:
        method = f"{METHOD} {BASELINE_METHOD}"
        facts["baseline"] = baseline.facts
        rows += _baseline_rows(baseline, jobs, batch_size, continuous.seconds, progress)
    return BenchResult("throughput", method, facts, rows, details)


@dataclass(frozen=True, slots=True)
class _Served:
    seconds: float
    latencies: list[float]


def _serve(driver: Driver, incoming: Sequence[Arrival], group: int | None) -> _Served:
    """Decode all; group: requests that start together once all before them are done, None to start at once."""
    engine = driver.engine
    waiting = deque(enumerate(incoming))
    index_of: dict[Request, int] = {}
    finished = [0.0] * len(incoming)
    driver.synchronize()
    start = time.perf_counter()
    while waiting or engine.has_unfinished:
        now = time.perf_counter() - start
        room = len(waiting) if group is None else 0 if engine.has_unfinished else group
        while room and waiting and waiting[0][1].at <= now:
            index, arrival = waiting.popleft()
            index_of[engine.add_request(arrival.job.prompt, arrival.job.params)] = index
            room -= 1
        if not engine.has_unfinished:
            time.sleep(max(0.0, waiting[0][1].at - now))
            continue
        for snapshot in engine.step(watched=False):
            if snapshot.request.failed:
                raise NonFiniteLogitsError(
                    "the model's logits were NaN or infinite: check the weights or use --dtype float32"
                )
            finished[index_of[snapshot.request]] = time.perf_counter() - start
    driver.synchronize()
    seconds = time.perf_counter() - start
    return _Served(seconds, [end - arrival.at for end, arrival in zip(finished, incoming, strict=True)])


def _row(
    side: str, jobs: Sequence[Job], seconds: float | None, latencies: Sequence[float] | None, continuous: float
) -> Row:
    """seconds: of all jobs, and `continuous` those of continuous batching; None where there are none."""
    num_tokens = sum(job.params.max_tokens for job in jobs)
    percentiles = np.percentile(latencies, PERCENTILES).tolist() if latencies else [None] * len(PERCENTILES)
    return {
        "side": side,
        "seconds": seconds,
        "tokens_per_s": num_tokens / seconds if seconds else None,
        "requests_per_s": len(jobs) / seconds if seconds else None,
        **{f"latency_p{p}_s": value for p, value in zip(PERCENTILES, percentiles, strict=True)},
        "continuous_against_it": seconds / continuous if seconds else None,
    }


def _baseline_rows(
    baseline: Baseline, jobs: Sequence[Job], batch_size: int, continuous: float, progress: Progress
) -> list[Row]:
    """The peer over padded batches, its requests as they come and sorted by generated tokens."""
    sizes = [(len(job.prompt), job.params.max_tokens) for job in jobs]
    rows: list[Row] = []
    for sort in (False, True):
        side = f"{baseline.name}, {'sorted' if sort else 'as they come'}"
        progress(side)
        seconds = padded_seconds(baseline, padded_batches(sizes, batch_size, sort=sort))
        rows.append(_row(side, jobs, seconds, None, continuous))
    return rows
