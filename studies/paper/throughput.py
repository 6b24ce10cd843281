"""Experiment 4 of the paper, Figure 3: tokens per second against batch size and length, of runs and of single steps.

`surelock bench latency --shape llada-8b` measures the same on the shape of a large model, without weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np

from studies import published
from studies.bench import Bench, Length, lengths
from studies.decoders import NONE, PAPER, PERMANENT
from studies.plots import Panel, Plot
from studies.study import Cell, Row, Rows, Settings, Study, Table
from surelock.bench.driving import Driver, Job, WholeRun, bench_config, run_to_end
from surelock.llm import LLM
from surelock.params import LockParams, SamplingParams

# Points of a curve of step-TPS; each is a mean over its part of the run.
NUM_PARTS: Final = 16


class Timed(NamedTuple):
    """One run of a batch: seconds of each step, of the whole, and the share of rows computed."""

    steps: list[float]
    seconds: float
    active_ratio: float


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length and batch size."""
    sizes = sorted(set(settings.batch_sizes))
    prompts = [list(text.token_ids) for text in bench.texts(sizes[-1])]
    return [
        Cell(
            f"N_gen {length.num_generated}, batch {size}",
            partial(measure, bench, prompts[:size], settings.threshold, length, max(map(len, prompts))),
            size * length.steps * length.num_generated,
        )
        for length, size in product(bench.fitting(settings.lengths, prompts), sizes)
    ]  # fmt: skip


def measure(bench: Bench, prompts: Sequence[list[int]], threshold: float, length: Length, num_prompt: int) -> Rows:
    """A row for each rule, and one for each part of its run."""
    rules = {NONE: None, PERMANENT: LockParams.permanent(threshold), PAPER: LockParams.paper(threshold)}
    jobs = {}
    for name, lock in rules.items():
        params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, lock=lock)
        jobs[name] = [Job(prompt, params) for prompt in prompts]
    timing = in_turn if bench.llm.device.type == "cpu" else one_after_another
    found, drift = timing(bench.llm, jobs, num_prompt + length.num_generated)
    rows, steps = [], []
    base, num, size = found[NONE], length.num_generated, len(prompts)
    for name, (_, seconds, active_ratio) in found.items():
        head: Row = {"num_generated": num, "batch_size": size, "rule": name}
        rows.append(head | {
            "seconds": seconds, "tokens_per_s": size * num / seconds, "speed_up": base.seconds / seconds,
            "drift": drift if name == NONE else None, "active_ratio": active_ratio, "possible": 1 / active_ratio,
            "published": published.FIGURE_3A.get((num, size)) if name == PAPER else None,
        })  # fmt: skip
        for (share, mean), (_, unlocked) in zip(_parts(found[name].steps), _parts(base.steps), strict=True):
            rate = size * num / length.steps / mean
            steps.append(head | {"share": share, "tokens_per_s": rate, "ratio": unlocked / mean})
    return {"throughput": rows, "throughput_by_step": steps}


def _parts(seconds: Sequence[float]) -> list[tuple[float, float]]:
    """Middle of each part of the run, as a share of it, and its mean seconds per step."""
    parts = np.array_split(np.array(seconds), min(NUM_PARTS, len(seconds)))
    ends = np.cumsum([len(part) for part in parts]) / len(seconds)
    middles = (float(end) - len(part) / len(seconds) / 2 for end, part in zip(ends, parts, strict=True))
    return [(middle, float(part.mean())) for middle, part in zip(middles, parts, strict=True)]


def in_turn(llm: LLM, jobs: Mapping[str, list[Job]], num_positions: int) -> tuple[dict[str, Timed], None]:
    """Runs that advance together, a step of each at a time: whatever else the machine does meets all of them."""
    drivers = {name: Driver(llm.transformer, bench_config(len(own), num_positions)) for name, own in jobs.items()}
    for name, own in jobs.items():
        drivers[name].warm_up(own, len(own) * num_positions)
    requests = {name: drivers[name].start(own) for name, own in jobs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    while any(driver.engine.has_unfinished for driver in drivers.values()):
        for name, driver in drivers.items():
            start = time.perf_counter()
            driver.engine.step(watched=False)
            seconds[name].append(time.perf_counter() - start)
    return {name: Timed(own, sum(own), _active_ratio(requests[name])) for name, own in seconds.items()}, None


def one_after_another(llm: LLM, jobs: Mapping[str, list[Job]], num_positions: int) -> tuple[dict[str, Timed], float]:
    """Runs each with the device to itself, and no lock again at the end; its two runs are averaged.

    Returns: the runs, and the second run without locks over the first.
    """
    driver = Driver(llm.transformer, bench_config(len(jobs[NONE]), num_positions))
    driver.warm_up(jobs[NONE], len(jobs[NONE]) * num_positions)
    for own in jobs.values():
        run_to_end(driver, own)
    found = {name: _timed(run_to_end(driver, own)) for name, own in jobs.items()}
    before, again = found[NONE], _timed(run_to_end(driver, jobs[NONE]))
    steps = [(a + b) / 2 for a, b in zip(before.steps, again.steps, strict=True)]
    return found | {NONE: Timed(steps, (before.seconds + again.seconds) / 2, 1.0)}, again.seconds / before.seconds


def _timed(run: WholeRun) -> Timed:
    # With captured graphs the host is one step ahead, so the last mark may come before the last step is done.
    num_steps = run.requests[0].num_steps
    ends = np.interp(np.arange(1, num_steps + 1), np.arange(1, len(run.marks) + 1), run.marks)
    return Timed(np.diff(ends, prepend=0.0).tolist(), run.seconds, _active_ratio(run.requests))


def _active_ratio(requests: Sequence[Any]) -> float:
    possible: int = sum(request.num_positions * request.num_steps for request in requests)
    rows: int = sum(sum(request.active_rows) for request in requests)
    return rows / possible


STUDY = Study(
    number="4", name="throughput", title="Tokens per second",
    method="Whole runs of the first texts' 64-token prompts, decoded together without locks, under the permanent rule "
    "and under the paper's (epsilon {threshold}). On a CPU the three advance in turn, a step at a time, so that "
    "whatever else the machine does meets all of them; on a GPU they run one after another after a warm-up, and "
    "without locks once more. Tokens per second: generated tokens / seconds, until the device is done.",
    settings={"lengths": lengths(64, 256, 1024), "batch_sizes": (1, 2, 4, 8), "threshold": 5e-3},
    quick={"lengths": lengths(64), "batch_sizes": (1, 2, 4)},
    grid=grid,
    tables=(
        Table("throughput", "Possible: the ratio there would be if a step cost as much as its rows. Drift: the second "
              "run without locks over the first; a ratio nearer to 1 than that says nothing. Published: Figure 3a, "
              "LLaDA-8B, epsilon 5e-3, against its own code without locks."),
        Table("throughput_by_step", columns=None),
    ),
    plots=(
        Plot("throughput_runs", "Tokens per second of whole runs. Diamonds: the paper's Figure 3a (LLaDA-8B).",
            Panel("throughput", "batch_size", "speed_up", "rule", "num_generated", NONE, published="published", log="2")
        ),
        Plot("throughput_steps", "Tokens per second of a step over the run, at each batch size.",
            Panel("throughput_by_step", "share", "ratio", "rule batch_size", "num_generated", NONE)
        ),
    ),
)  # fmt: skip
