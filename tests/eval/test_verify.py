"""`verify` finds nothing where nothing is wrong, and something where something is."""

from __future__ import annotations

import pytest

from surelock import LLM, LockParams, SamplingParams
from surelock.engine.runner import Runner
from surelock.eval.verify import verify

TEXTS = ["Call me Ishmael. Some years ago", "The President said"]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM()


def test_no_locking_is_exact_and_deviates_by_rounding(llm: LLM) -> None:
    seen: list[tuple[int, int]] = []
    params = SamplingParams(max_tokens=10, lock=None, cfg_scale=0.5)
    report = verify(llm, TEXTS, params, progress=lambda *at: seen.append(at))
    assert report.exact
    assert report.first_mismatch is None
    assert report.num_tokens == 20
    assert report.lock_agreement == 1
    assert report.identical_outputs == 2
    assert report.first_difference is None
    assert report.max_deviation < 1e-5
    assert report.active_ratio == 1
    assert seen == [(1, 2), (2, 2)]


def test_reckless_locking_is_measured(llm: LLM) -> None:
    lock = LockParams(kl_threshold=1e6, min_visible_steps=0)
    report = verify(llm, TEXTS, SamplingParams(max_tokens=16, lock=lock))
    assert report.exact
    assert report.active_ratio < 0.6
    assert report.lock_agreement < 1
    assert report.first_difference is not None
    assert report.max_deviation > 0.01


def test_a_broken_engine_is_found(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Runner.__call__

    def off_by_a_little(self: Runner, canvas: object, rows: object) -> object:
        return run(self, canvas, rows) + 0.5  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "__call__", off_by_a_little)
    report = verify(llm, TEXTS[0], SamplingParams(max_tokens=10, lock=None))
    assert not report.exact
    assert report.first_mismatch is not None
    assert report.first_mismatch[0] == 0
