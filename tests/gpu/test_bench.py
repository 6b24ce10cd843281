"""`surelock bench` on a CUDA device, where steps are captured and results come late: `python -m pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

from surelock.bench.driving import Driver, Job, bench_config, run_to_end
from surelock.bench.latency import Setting, run_latency
from surelock.bench.ops import run_ops
from surelock.bench.schedules import SCHEDULES, make_schedule, script
from surelock.bench.steps import run_steps
from surelock.bench.subject import random_subject
from surelock.bench.throughput import mixed_jobs, run_throughput
from surelock.params import SamplingParams

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_captured_steps_follow_the_script(name: str) -> None:
    subject = random_subject("tiny", name, device=CUDA)
    driver = Driver(subject.model, bench_config(3, 100), subject.rule)
    sizes = [(5, 64), (40, 17), (1, 33), (20, 80), (9, 2)]
    jobs = [Job(subject.prompt(i, p), SamplingParams(max_tokens=n)) for i, (p, n) in enumerate(sizes)]
    for _ in range(2):
        run = run_to_end(driver, jobs)
        for (num_prompt, num), request in zip(sizes, run.requests, strict=True):
            assert request.active_rows == script(make_schedule(name, CUDA), num_prompt, num, CUDA)


def test_every_measurement_runs() -> None:
    subject = random_subject("tiny", "default", device=CUDA)
    latency = run_latency(subject, [Setting(2, 32)], num_prompt=16)
    assert latency.rows[0]["bound"] > 0
    assert len(run_steps(subject, num_requests=[1, 2], num_positions=64, num_points=3).rows) == 6
    jobs = mixed_jobs(subject, num_requests=6, num_tokens=[16, 48], num_prompt=(4, 20))
    assert len(run_throughput(subject, jobs, batch_size=2).rows) == 2
    for row in run_ops(subject, num_rows=[5, 200], num_positions=100).rows:
        assert row["difference"] is None or row["difference"] < 0.1, row
