"""Times of decoding on the shape of a large model, from steps that hold the rows a script leaves.

A whole run of 4,096 positions takes minutes; a few of its steps, spread over the run, say the same about cost. Each
computes as many rows as the script has at that step, of them as many masks, and measures the divergence of its
candidates, as a real rule would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from surelock.bench.driving import Driver, Hold, Job, bench_config, held_driver, held_ms, steady_ms
from surelock.bench.schedules import make_schedule, script
from surelock.bench.subject import Subject
from surelock.params import SamplingParams

NUM_POINTS: Final = 7
# Steps of a point that are timed; fewer rows than this cannot be held that long.
NUM_STEPS: Final = 8
_LEAST_ROWS: Final = 16
# Of a point, beyond the few steps that are timed whatever they take.
SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class SampledRun:
    """Milliseconds of every step of a scripted run, read between the steps that were measured.

    Attributes:
        rows: of one request in each step.
        measured: (step, milliseconds) of those that were timed.
        milliseconds: of each step.
    """

    rows: list[int]
    measured: list[tuple[int, float]]
    milliseconds: list[float]


def unlocked_ms(subject: Subject, num_requests: int, num_prompt: int, num_generated: int) -> float:
    """Milliseconds of a step without locks, with half of the tokens given: cost changes with the head's rows alone.

    As many steps are timed as `SECONDS` allow.
    """
    num_positions = num_prompt + num_generated
    driver = Driver(subject.model, bench_config(num_requests, num_positions), subject.rule)
    params = SamplingParams(max_tokens=num_generated, lock=None)
    jobs = [Job(subject.prompt(index, num_prompt), params) for index in range(num_requests)]
    driver.allocate(jobs)
    return steady_ms(driver, subject, num_requests, num_positions, (num_generated + 1) / 2, seconds=SECONDS)


def sampled_runs(
    subject: Subject, schedules: list[str], num_requests: int, num_prompt: int, num_generated: int
) -> dict[str, SampledRun]:
    """A run of each schedule, in one engine; at each point as many steps are timed as `SECONDS` allow."""
    num_positions = num_prompt + num_generated
    driver = held_driver(subject, bench_config(num_requests, num_positions), measures=True)
    params = SamplingParams(max_tokens=num_generated)
    driver.allocate([Job(subject.prompt(index, num_prompt), params) for index in range(num_requests)])
    found = {}
    for name in schedules:
        rows = script(make_schedule(name, subject.device), num_prompt, num_generated, subject.device)
        last = max(step for step, num in enumerate(rows, start=1) if num >= min(_LEAST_ROWS, rows[0]))
        measured = []
        for step in sorted({min(3, last), *(round(step) for step in np.linspace(1, last, NUM_POINTS))}):
            hold = Hold(num_positions, rows[step - 1], num_generated - step + 1)
            ms = held_ms(driver, subject, [hold] * num_requests, num_steps=NUM_STEPS, seconds=SECONDS)
            measured.append((step, ms))
        known = sorted((rows[step - 1], ms) for step, ms in measured)
        every = np.interp(rows, [num for num, _ in known], [ms for _, ms in known])
        found[name] = SampledRun(rows, measured, every.tolist())
    return found
