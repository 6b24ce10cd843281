"""A trace is what the instrumented decoder's logits say, and a replayed rule locks what the decoder would."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from surelock.errors import ParameterError
from surelock.measure.instrumented import InstrumentedDecoder, RefreshEvery
from surelock.measure.trace import Trace, lock_steps, trace, trace_all, trace_batch_size
from surelock.params import LockParams, SamplingParams
from tests.tiny import MASK, tiny_model

PARAMS = SamplingParams(max_tokens=10, lock=None, seed=0)
CANVASES: list[list[int | None]] = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15]]


@cache
def decoder() -> InstrumentedDecoder:
    return InstrumentedDecoder(tiny_model())


@cache
def run() -> Trace:
    return trace(decoder(), CANVASES, PARAMS)


def test_a_trace_is_of_the_logits() -> None:
    steps = list(decoder().steps(CANVASES, PARAMS))
    logits = torch.stack([step.logits for step in steps]).double()
    log_p = logits.log_softmax(3)
    p, final = log_p.exp(), log_p[-1].exp()
    found, tokens = run(), steps[-1].tokens
    expected = {
        "kl": (p[1:] * (log_p[1:] - log_p[:-1])).sum(3),
        "uncertainty": 1 - p.amax(3),
        "tv": (p - final).abs().sum(3) / 2,
        "log_gap": (log_p - log_p[-1]).abs().amax(3),
        "log_step": (log_p[1:] - log_p[:-1]).abs().amax(3),
        "token_gap": (log_p - log_p[-1]).gather(3, tokens.expand(len(steps), -1, -1).unsqueeze(3)).squeeze(3).abs(),
    }
    change = logits[1:] - logits[:-1]
    expected["logit_step"] = (change - change.mean(3, keepdim=True)).norm(dim=3)
    for name, values in expected.items():
        measured = torch.from_numpy(getattr(found, name))[-len(values) :].double()
        torch.testing.assert_close(measured, values, atol=2e-5, rtol=1e-4, msg=name)
    assert np.array_equal(found.flipped, (logits.argmax(3) != logits[-1].argmax(2)).numpy())
    assert np.isinf(found.kl[0]).all()
    assert np.isnan(found.logit_step[0]).all()
    assert not found.rewritten.any()
    assert found.num_steps == 10
    assert found.given[:, :5].all()
    assert not found.given[:, 5:].any()


@pytest.mark.parametrize(
    "lock",
    [
        LockParams(kl_threshold=0.2),
        LockParams.paper(0.5),
        replace(LockParams.paper(0.5), gate_scope="active", min_visible_steps=2),
        LockParams(kl_threshold=0.3, kl_both_visible=True, prompt_lock_step=3),
        LockParams(kl_threshold=-1.0),
    ],
)
def test_replayed_locks_are_those_of_a_run_that_freezes_nothing(lock: LockParams) -> None:
    # Everything locked is computed anew in every step, so the run is one without locks.
    expected = decoder().run(CANVASES, replace(PARAMS, lock=lock), refresh=RefreshEvery(1))
    assert np.array_equal(lock_steps(run(), lock), expected.locked_at.numpy())
    assert bool((expected.locked_at > 0).any()) != lock.is_never


def test_a_locked_run_has_its_own_trace() -> None:
    params = replace(PARAMS, lock=LockParams.paper(0.5))
    found = trace(decoder(), CANVASES, params)
    expected = decoder().run(CANVASES, params)
    assert np.array_equal(found.locked_at, expected.locked_at.numpy())
    assert np.array_equal(found.committed_at, expected.committed_at.numpy())


def test_ragged_canvases_are_traced_in_groups() -> None:
    ragged: list[list[int | None]] = [[1, 2], [3, 4, 5], [6, 7], [8, None, 9]]
    seen: list[tuple[int, int]] = []
    runs = trace_all(
        decoder(), ragged, replace(PARAMS, max_tokens=4), batch_size=1, progress=lambda *counts: seen.append(counts)
    )
    assert sorted(int(each.canvases[0]) for each in runs) == [0, 1, 2, 3]
    assert [each.kl.shape for each in runs if each.canvases[0] == 3] == [(5, 1, 7)]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_every_sequence_has_noise_of_its_own() -> None:
    sampled = replace(PARAMS, temperature=1.0, seed=3)
    alike = trace(decoder(), [CANVASES[0]] * 8, sampled)
    assert len({row.tobytes() for row in alike.committed_at}) > 4
    # Whatever it is decoded with, and again under the number it had.
    alone = trace_all(decoder(), [CANVASES[0]], sampled, canvas_numbers=[5])
    assert alone[0].canvases.tolist() == [5]
    assert np.array_equal(alone[0].committed_at[0], alike.committed_at[5])
    assert np.allclose(alone[0].kl[1:, 0], alike.kl[1:, 5], atol=1e-4)


def test_guided_runs_are_traced() -> None:
    guided = replace(PARAMS, cfg_scale=1.5, max_tokens=3)
    found = trace(decoder(), CANVASES, guided)
    assert np.abs(found.tv[-1]).max() < 1e-4
    assert found.tv[0].max() > 1e-2


def test_a_canvas_with_nothing_to_do_is_refused() -> None:
    with pytest.raises(ParameterError, match="nothing to denoise"):
        trace(decoder(), [[1, 2]], replace(PARAMS, max_tokens=0))


def test_batch_size_counts_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surelock.measure.trace.HIDDEN_BYTES", 10 * 15 * 32 * 4 * 3)
    assert trace_batch_size(decoder(), 15, 10) == 3
    assert trace_batch_size(decoder(), 15, 1000) == 1
    assert MASK not in run().committed_at
