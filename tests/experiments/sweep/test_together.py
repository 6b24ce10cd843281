"""Many policies in one batch are each as if alone, and their rows are counted."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from surelock.decoding.naive import naive_decode
from surelock.eval.dense import DenseDecoder, RefreshEvery
from surelock.experiments.sweep.damage import measure_damage
from surelock.experiments.sweep.policies import (
    AfterOneStep,
    ByDrift,
    ByKL,
    Policy,
    Refreshed,
    Unlocking,
    UnlockOnDrift,
)
from surelock.experiments.sweep.together import Variant, cost_row, run_together
from surelock.flops import RowCost, request_flops
from surelock.params import LockParams, SamplingParams
from tests.tiny import MASK, tiny_model

PARAMS = SamplingParams(max_tokens=12, lock=None)
LOCK = LockParams(kl_threshold=0.2)
VARIANTS = (
    Variant("none"),
    Variant("kl", partial(ByKL, LOCK)),
    Variant("always", AfterOneStep),
    Variant("refreshed", lambda: Refreshed(ByKL(LOCK), 3)),
    Variant("drift", partial(ByDrift, 0.2, "both")),
    Variant(
        "unlocked",
        partial(UnlockOnDrift, LOCK, Unlocking(by="kl", threshold=1e-3, period=3, min_locked=1, cool_down=2)),
    ),
)


def canvases(num: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    found: list[list[int]] = torch.randint(0, MASK, (num, 6), generator=generator).tolist()
    return found


def test_each_variant_is_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny_model(), canvases(3)
    whole = run_together(model, prompts, PARAMS, VARIANTS)
    # Batches that end within a variant.
    monkeypatch.setattr(DenseDecoder, "batch_size", lambda *arguments: 4)
    assert run_together(model, prompts, PARAMS, VARIANTS) == whole
    for variant in VARIANTS:
        assert run_together(model, prompts, PARAMS, [variant])[variant.name] == whole[variant.name]
    assert sum(run.unlocks for run in whole["unlocked"]) > 0
    assert all(run.unlocks == 0 for name in ("kl", "always", "refreshed") for run in whole[name])
    assert all(run.active == run.num_positions * run.num_steps for run in whole["none"])
    assert sum(run.refreshed for run in whole["refreshed"]) > 0


def test_kl_is_the_engines_rule() -> None:
    model, prompts = tiny_model(), canvases(4)
    found = run_together(model, prompts, PARAMS, [VARIANTS[1]])["kl"]
    params = SamplingParams(max_tokens=12, lock=LOCK)
    num_compared = 0
    for prompt, run in zip(prompts, found, strict=True):
        expected = naive_decode(model, prompt, params, mask_token_id=MASK, seed=0)
        if expected.margin > 2e-4:
            assert run.tokens == expected.tokens[6:]
            assert run.active == sum(expected.active_rows)
            assert run.locks == sum(at is not None for at in expected.locked_at)
            num_compared += 1
    assert num_compared >= 2


def test_refreshing_is_the_decoders() -> None:
    model, prompts = tiny_model(), canvases(2)
    found = run_together(model, prompts, PARAMS, [VARIANTS[3]])["refreshed"]
    record = DenseDecoder(model).run(prompts, SamplingParams(max_tokens=12, lock=LOCK), refresh=RefreshEvery(3))
    assert [run.tokens for run in found] == record.tokens[:, 6:].tolist()
    assert [run.active for run in found] == record.num_active.sum(0).tolist()


def test_costs_are_those_of_a_request() -> None:
    model = tiny_model()
    (run,) = run_together(model, canvases(1), PARAMS, [VARIANTS[1]])["kl"]
    cost = cost_row(model.config, [run])
    assert cost["active_ratio"] == cost["exact_ratio"] == pytest.approx(run.active / (18 * 12))
    head, row = RowCost.from_config(model.config).head, RowCost.from_config(model.config).transformer(18)
    assert run.masked == 12 * 13 / 2
    assert run.tested > 0
    full = (run.active * row + head * (run.masked + 2 * run.tested)) / (216 * row + head * run.masked)
    assert cost["full_ratio"] == pytest.approx(full)
    # The same formula as for a request of the engine.
    counts: dict[str, Any] = {"active_rows": [run.active], "masked_rows": [run.masked], "candidate_rows": [run.tested]}
    known = request_flops(model.config, num_positions=216, **counts)
    assert known["full"]["locked"] - known["exact"]["locked"] == head * (run.masked + 2 * run.tested)


def test_damage_of_no_lock_is_none_and_of_any_lock_some() -> None:
    variants = (Variant("none", Policy), Variant("kl", partial(ByKL, LOCK)), Variant("always", AfterOneStep))
    found = measure_damage(tiny_model(), canvases(3), PARAMS, variants)
    none, by_kl, always = (found[variant.name] for variant in variants)
    assert (none.flips, none.kl, none.frozen, none.locks) == (0, 0.0, 0, 0)
    assert none.active == none.possible == 3 * 12 * 18
    assert none.rows == always.rows == 3 * 12 * 13 / 2
    assert always.kl > by_kl.kl > 0
    assert always.active == always.possible - always.frozen


def test_damage_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_damage(tiny_model(), canvases(3), PARAMS, VARIANTS[1:3])
    monkeypatch.setattr(DenseDecoder, "batch_size", lambda *arguments: 3)
    for name, parts in measure_damage(tiny_model(), canvases(3), PARAMS, VARIANTS[1:3]).items():
        assert parts.kl == pytest.approx(whole[name].kl, rel=1e-4)
        assert (parts.flips, parts.frozen, parts.locks) == (whole[name].flips, whole[name].frozen, whole[name].locks)
