"""Each measurement on the tiny shape: what its rows hold, and that the numbers fit each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from surelock import LLM
from surelock.bench import driving
from surelock.bench.baselines import Batch, padded_batches, padded_seconds
from surelock.bench.driving import (
    Driver,
    Hold,
    Job,
    held_driver,
    held_ms,
    run_to_end,
    steady_ms,
)
from surelock.bench.latency import Setting, run_latency
from surelock.bench.ops import run_ops
from surelock.bench.result import BenchResult
from surelock.bench.roofline import Limits, break_even_rows, bytes_read, measure_limits, step_floor
from surelock.bench.schedules import DefaultSchedule, script
from surelock.bench.shapes import LLADA_8B, random_model
from surelock.bench.steps import run_steps
from surelock.bench.subject import Subject, random_subject, trained_subject
from surelock.bench.throughput import arrivals, mixed_jobs, run_throughput
from surelock.config import EngineConfig
from surelock.errors import ParameterError
from surelock.params import LockParams, SamplingParams

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return random_subject("tiny", "default", device=CPU)


class FakeBaseline:
    """Ten milliseconds a step for every request; none for batches of one."""

    name = "fake"

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {"name": self.name}
        self.calls: list[tuple[int, int, int]] = []

    def step_ms(self, num_requests: int, num_prompt: int, max_tokens: int) -> float | None:
        self.calls.append((num_requests, num_prompt, max_tokens))
        return 10.0 * num_requests if num_requests > 1 else None


def check(result: BenchResult, benchmark: str) -> None:
    """What every result promises."""
    assert result.benchmark == benchmark
    assert result.rows
    assert {tuple(row) for row in result.rows} == {tuple(result.rows[0])}
    for row in result.rows:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))


def test_latency(subject: Subject) -> None:
    baseline = FakeBaseline()
    result = run_latency(subject, [Setting(1, 24), Setting(2, 16)], num_prompt=8, baseline=baseline)
    check(result, "latency")
    assert "scripted" in result.facts["lock"]
    for row, (num, tokens) in zip(result.rows, [(1, 24), (2, 16)], strict=True):
        rows = script(DefaultSchedule(), 8, tokens, CPU)
        assert row["active_ratio"] == pytest.approx(sum(rows) / (tokens * (8 + tokens)))
        # On the engine's own count: rows of equal canvases, so the ratios agree.
        assert row["exact_flops_ratio"] == pytest.approx(row["active_ratio"])
        assert row["full_flops_ratio"] > row["exact_flops_ratio"]
        assert row["speed_up"] == pytest.approx(row["unlocked_ms_per_step"] / row["locked_ms_per_step"])
        assert row["bound_reached"] == pytest.approx(row["speed_up"] / row["bound"])
        assert row["locked_tokens_per_s"] == pytest.approx(1000 * num / row["locked_ms_per_step"])
        details = result.details[f"{num}x{tokens}"]
        assert details["active_rows"] == [num * count for count in rows]
        assert len(details["step_ends_s"]) >= tokens
        assert [point["step"] for point in details["held_ms"]][:2] == [1, 3]
    assert result.rows[0]["baseline_ms_per_step"] is None
    assert result.rows[1]["unlocked_against_baseline"] == pytest.approx(20 / result.rows[1]["unlocked_ms_per_step"])
    assert baseline.calls == [(1, 8, 24), (2, 8, 16)]


def test_steps(subject: Subject) -> None:
    result = run_steps(subject, num_requests=[1, 2], num_positions=40, num_points=3)
    check(result, "steps")
    assert [(row["requests"], row["rows"]) for row in result.rows] == [
        (1, 8), (1, 18), (1, 40), (2, 16), (2, 36), (2, 80),
    ]  # fmt: skip
    for row in result.rows:
        assert row["floor_ms"] == max(row["flops_floor_ms"], row["weights_floor_ms"])
        assert row["ms_above_weights"] == pytest.approx(row["ms"] - row["weights_floor_ms"])
        assert 0 < row["head_rows"] < row["rows"]
    assert result.facts["break_even_rows"] > 0


def test_throughput(subject: Subject) -> None:
    jobs = mixed_jobs(subject, num_requests=7, num_tokens=[8, 16], num_prompt=(4, 9))
    baseline = FakeBaseline()
    result = run_throughput(subject, jobs, batch_size=2, max_running=3, baseline=baseline)
    check(result, "throughput")
    sides = {row["side"]: row for row in result.rows}
    assert list(sides) == ["static", "continuous", "fake, as they come", "fake, sorted"]
    assert sides["continuous"]["continuous_against_it"] == 1
    for side in ("static", "continuous"):
        row = sides[side]
        assert row["tokens_per_s"] * row["seconds"] == pytest.approx(sum(job.params.max_tokens for job in jobs))
        assert row["latency_p50_s"] <= row["latency_p90_s"] <= row["latency_p99_s"] <= row["seconds"]
        assert len(result.details[f"{side}_latencies_s"]) == 7
    # Seven requests leave a batch of one, which the fake does not take.
    assert sides["fake, sorted"]["seconds"] is None


def test_static_batches_wait_for_the_whole_group(subject: Subject) -> None:
    params = [SamplingParams(max_tokens=num, lock=None) for num in (4, 40, 4, 4)]
    jobs = [Job(subject.prompt(0, 4), each) for each in params]
    result = run_throughput(subject, jobs, batch_size=2)
    static, continuous = (result.details[f"{side}_latencies_s"] for side in ("static", "continuous"))
    assert static[0] < static[1] < static[2]
    assert continuous[2] < continuous[1]


def test_arrivals(subject: Subject) -> None:
    jobs = mixed_jobs(subject, num_requests=400, num_tokens=[8], num_prompt=(4, 4))
    assert {arrival.at for arrival in arrivals(jobs, None)} == {0.0}
    times = [arrival.at for arrival in arrivals(jobs, 100.0)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(4.0, rel=0.15)
    result = run_throughput(subject, jobs[:6], batch_size=2, rate=200.0)
    assert all(row["seconds"] > 0 for row in result.rows)
    assert min(result.details["continuous_latencies_s"]) > 0


def test_ops(subject: Subject) -> None:
    result = run_ops(subject, num_rows=[3, 40], num_positions=16)
    check(result, "ops")
    names = [row["op"] for row in result.rows if row["rows"] == 3]
    assert names[:4] == [
        "product qkv 32x96", "product attn_out 32x32", "product gate_up 32x96", "product down 48x32",
    ]  # fmt: skip
    assert names[4:] == [
        "add_norm", "rope_store", "row_attention", "swiglu", "head_logits", "token_stats", "kl_from_logits", "step_kl",
    ]  # fmt: skip
    qkv = next(row for row in result.rows if row["rows"] == 40)
    assert qkv["flops"] == 2 * 40 * 32 * 96
    assert qkv["bytes"] == 4 * (40 * 32 + 32 * 96 + 40 * 96)
    assert all(row["times_floor"] == pytest.approx(row["us"] / row["floor_us"]) for row in result.rows)


def test_trained_weights_lock_by_the_engines_own_rule() -> None:
    llm = LLM(device="cpu")
    subject = trained_subject(llm, LockParams())
    assert subject.rule is None
    assert subject.prompt(0, 40) != subject.prompt(1, 40)
    assert subject.facts["prompts"] == "English text"
    run = run_to_end(
        Driver(subject.model, EngineConfig(), subject.rule),
        [Job(subject.prompt(0, 24), SamplingParams(max_tokens=8, lock=subject.lock))],
    )
    assert run.requests[0].active_rows[0] == 32
    assert run.requests[0].active_rows[-1] < 32


def test_held_steps_of_few_masks(subject: Subject) -> None:
    driver = held_driver(subject, EngineConfig(max_batch_size=2))
    assert held_ms(driver, subject, [Hold(30, 8, 2), Hold(30, 30, 1)], num_steps=4) > 0


class SlowEngine:
    """An engine whose step advances a clock; it captures nothing and computes nothing."""

    def __init__(self, step_seconds: float) -> None:
        self.step_seconds, self.now, self.num_steps, self.waiting = step_seconds, 0.0, 0, 0

    @property
    def has_unfinished(self) -> bool:
        return self.waiting > 0

    def clock(self) -> float:
        return self.now

    def add_request(self, prompt: list[int], params: SamplingParams) -> None:
        self.waiting += 1

    def abort_request(self, request: None) -> None:
        self.waiting -= 1

    def step(self, *, watched: bool) -> None:
        self.now += self.step_seconds
        self.num_steps += 1


@pytest.mark.parametrize(
    ("captures", "num_held", "num_steady"),
    # 4 of warm-up, then 8 or 32; twice if graphs are captured.
    [(False, 12, 36), (True, 2 * 12, 2 * 36)],
)
def test_steps_timed_at_a_point(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, captures: bool, num_held: int, num_steady: int
) -> None:
    monkeypatch.setattr(Driver, "captures", captures)
    measures: list[tuple[int, Callable[[Driver], float]]] = [
        (num_held, lambda driver: held_ms(driver, subject, [Hold(500, 100, 90)], num_steps=8)),
        (num_steady, lambda driver: steady_ms(driver, subject, 1, 500, 200)),
    ]
    for wanted, measure in measures:
        driver, engine = held_driver(subject, EngineConfig()), SlowEngine(0.09)
        monkeypatch.setattr(driver, "engine", engine)
        monkeypatch.setattr(driving, "time", SimpleNamespace(perf_counter=engine.clock))
        assert measure(driver) == pytest.approx(90)
        assert engine.num_steps == wanted


def test_break_even_on_an_h100() -> None:
    assert break_even_rows(LLADA_8B, 2, Limits(790e12, 3.0e12)) == pytest.approx(263.3, abs=0.1)


def test_floor_of_a_step(subject: Subject) -> None:
    limits = Limits(1e12, 1e12)
    weights = 33_952 - 256 * 32
    assert bytes_read(subject.model) == 4 * weights
    floor = step_floor(subject.model, limits, num_rows=10, num_head_rows=3, num_positions=7)
    linear = 2 * 2 * (4 * 32 * 32 + 3 * 32 * 48)
    assert floor.flops_ms == pytest.approx(1e-9 * (10 * (linear + 7 * 2 * 4 * 32) + 3 * 2 * 32 * 256))
    assert floor.ms == max(floor.flops_ms, floor.weights_ms)


def test_limits_are_those_of_a_machine() -> None:
    limits = measure_limits(CPU, torch.float32)
    assert 1e8 < limits.matmul_flops_per_s < 1e15
    assert 1e8 < limits.copy_bytes_per_s < 1e13


def test_padded_batches() -> None:
    sizes = [(5, 64), (9, 8), (4, 32), (7, 16), (1, 8)]
    assert padded_batches(sizes, 2, sort=False) == [Batch(2, 9, 64), Batch(2, 7, 32), Batch(1, 1, 8)]
    assert padded_batches(sizes, 2, sort=True) == [Batch(2, 9, 8), Batch(2, 7, 32), Batch(1, 5, 64)]
    baseline = FakeBaseline()
    assert padded_seconds(baseline, [Batch(2, 9, 64), Batch(4, 7, 32), Batch(2, 9, 64)]) == pytest.approx(
        (2 * 20 * 64 + 40 * 32) / 1000
    )
    assert len(baseline.calls) == 2


REFUSED: list[tuple[Callable[[Subject], object], str]] = [
    (lambda s: run_latency(s, [Setting(1, 500)]), "--settings asks for a canvas of 564 positions"),
    (lambda s: run_steps(s, num_requests=[1], num_positions=600), "--positions asks for a canvas of 600"),
    (lambda s: run_steps(s, num_requests=[1], num_positions=4), "--positions is 4"),
    (lambda s: run_steps(s, num_requests=[2000], num_positions=32), "--requests holds 2000"),
    (lambda s: run_ops(s, num_rows=[1 << 20], num_positions=16), "--rows holds 1048576"),
    (lambda s: mixed_jobs(s, num_requests=1, num_tokens=[900], num_prompt=(1, 2)), "--tokens asks for a canvas of 902"),
    (lambda s: run_throughput(s, [], batch_size=0), "--batch-size is 0"),
    (lambda s: run_throughput(s, [], batch_size=4, max_running=2), "more than --max-running 2"),
    (lambda s: run_throughput(s, [], batch_size=1, rate=1.0, baseline=FakeBaseline()), "leave --rate out"),
    (lambda s: random_model("llada-8b", device=CPU), "needs a CUDA device"),
    (lambda s: random_model("huge", device=CPU), "use one of llada-8b, tiny"),
    (lambda s: Setting.parse("8x"), "write REQUESTSxTOKENS"),
    (lambda s: Setting.parse("0x64"), "requests is 0; it must be from 1"),
    (lambda s: Setting.parse("1x8"), "tokens must be at least 16"),
]


@pytest.mark.parametrize(("run", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refused_in_one_line(subject: Subject, run: Callable[[Subject], object], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as error:
        run(subject)
    assert "\n" not in str(error.value)
