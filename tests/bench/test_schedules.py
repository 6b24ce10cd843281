"""Scripts of locks: their curves, and that an engine follows them for requests of any size in one batch."""

from __future__ import annotations

import json
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surelock.bench.schedules import (
    SCHEDULES,
    DefaultSchedule,
    HeldRows,
    PaperSchedule,
    ScriptedLock,
    make_schedule,
    script,
)
from surelock.bench.shapes import random_model
from surelock.config import EngineConfig
from surelock.engine.engine import Engine
from surelock.models.transformer import Transformer
from surelock.params import LockParams, SamplingParams
from tests.engine.replayed import Replayed

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model("tiny", device=CPU)


def published() -> dict[int, list[float]]:
    content = json.loads(files("surelock.bench").joinpath("paper_active_ratio.json").read_text())
    return {int(length): curve for length, curve in content["active_ratio"].items()}


def test_default_curve() -> None:
    num_prompt, num = 64, 256
    expected = [num_prompt * (t <= 2) + (num - t + 1) + min(t - 1, 8) for t in range(1, num + 1)]
    assert script(DefaultSchedule(), num_prompt, num, CPU) == expected


@pytest.mark.parametrize(("num", "ratio"), [(64, 0.328), (256, 0.428), (1024, 0.478)])
def test_default_ratio(num: int, ratio: float) -> None:
    rows = script(DefaultSchedule(), 64, num, CPU)
    assert sum(rows) / (num * (64 + num)) == pytest.approx(ratio, abs=6e-4)


@pytest.mark.parametrize("num", [64, 256, 1024])
def test_paper_curve_at_its_own_lengths(num: int) -> None:
    curve = published()[num]
    assert len(curve) == num
    floor = [num, *range(num, 1, -1)]
    expected = np.maximum(np.round(np.array(curve) * (num + 88)), floor)
    assert script(PaperSchedule.load(CPU), 88, num, CPU) == np.minimum.accumulate([num + 88, *expected[1:]]).tolist()


def test_paper_curve_between_two_lengths_lies_between_them() -> None:
    curves, schedule = published(), PaperSchedule.load(CPU)
    # By log N_gen, 128 is half way from 64 to 256.
    middle = np.array(script(schedule, 4000, 128, CPU)) / 4128
    share = np.linspace(0, 1, 128)
    ends = [np.interp(share, np.linspace(0, 1, num), curves[num]) for num in (64, 256)]
    np.testing.assert_allclose(middle, (ends[0] + ends[1]) / 2, atol=2e-4)


@pytest.mark.parametrize("num", [2, 16, 63, 4000])
def test_paper_curve_of_lengths_it_does_not_have(num: int) -> None:
    rows = script(PaperSchedule.load(CPU), 10, num, CPU)
    assert rows[0] == num + 10
    assert all(earlier >= later >= num - t for t, (earlier, later) in enumerate(pairwise(rows), 1))


@settings(max_examples=12)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 24), st.integers(2, 28)), min_size=1, max_size=6),
    name=st.sampled_from(sorted(SCHEDULES)),
    replays=st.booleans(),
)
def test_a_mixed_batch_follows_its_script(sizes: list[tuple[int, int]], name: str, replays: bool) -> None:
    """Two slots, so that requests join at different steps; with steps of exactly their rows, and as captured ones."""
    model = random_model("tiny", device=CPU)
    schedule = make_schedule(name, CPU)
    graphs = Replayed() if replays else None
    engine = Engine(model, EngineConfig(max_batch_size=2), locking=ScriptedLock(schedule), graphs=graphs)
    requests = [
        engine.add_request(list(range(1, num_prompt + 1)), SamplingParams(max_tokens=num, lock=LockParams.permanent()))
        for num_prompt, num in sizes
    ]
    while engine.has_unfinished:
        engine.step(watched=False)
    for (num_prompt, num), request in zip(sizes, requests, strict=True):
        assert request.active_rows == script(schedule, num_prompt, num, CPU)


def test_the_scripted_rule_measures_and_leaves_unlocked_requests_alone(model: Transformer) -> None:
    engine = Engine(model, EngineConfig(), locking=ScriptedLock(DefaultSchedule()))
    locked = engine.add_request([1, 2, 3], SamplingParams(max_tokens=20))
    unlocked = engine.add_request([1, 2, 3], SamplingParams(max_tokens=20, lock=None))
    while engine.has_unfinished:
        engine.step(watched=False)
    assert sum(locked.num_scored) > 0
    assert unlocked.active_rows == [23] * 20


def test_held_rows_are_held_and_not_measured(model: Transformer) -> None:
    engine = Engine(model, EngineConfig(), locking=HeldRows())
    lock = LockParams.permanent(17)
    held = engine.add_request(list(range(1, 31)), SamplingParams(max_tokens=12, lock=lock))
    few = engine.add_request(list(range(1, 31)), SamplingParams(max_tokens=12, lock=LockParams.permanent(12)))
    while engine.has_unfinished:
        engine.step(watched=False)
    assert held.active_rows == [42] + [17] * 11
    assert few.active_rows == [42] + [12] * 11
    assert sum(held.num_scored) == 0


def test_held_rows_can_be_measured_as_a_real_rule_would(model: Transformer) -> None:
    engine = Engine(model, EngineConfig(), locking=HeldRows(needs_scores=True))
    lock = LockParams.permanent(17)
    held = engine.add_request(list(range(1, 31)), SamplingParams(max_tokens=12, lock=lock))
    while engine.has_unfinished:
        engine.step(watched=False)
    assert held.active_rows == [42] + [17] * 11
    # Of 17 rows those are tested that are no masks; the last step tests nothing, and the first has no step before it.
    assert held.num_scored == [0, *(17 - (12 - step) for step in range(1, 11)), 0]
