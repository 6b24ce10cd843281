"""What is recorded of runs with locks that repeat the decisions of others, counted again from the steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.bench import Bench
from studies.forced.effects import lock_classes
from studies.forced.free import Path as RunPath
from studies.forced.free import first_difference
from studies.forced.measure import measure
from studies.forced.records import GHOST, LOCK_CLASSES, Record, spearman, tables, total
from studies.study import Row, Settings, grouped, where
from surelock import LLM, LockParams, SamplingParams
from surelock.measure.forced.lockstep import teacher_forced
from surelock.measure.posteriors import compare
from tests.checkpoints import write_checkpoint

PROMPTS = [[1, 2, 3], [4, 5, 6], [7, 8]]
N = 9
PARAMS = SamplingParams(max_tokens=N, ignore_eos=True)
LITERAL = LockParams(kl_threshold=1e6, min_visible_steps=0, refresh=None)
VISIBLE = LockParams.permanent(1e6)
RULES = {"never": LockParams.permanent(-1.0), "literal": LITERAL, "visible": VISIBLE}
EFFORT = Settings(group_every=2, num_probes=2, num_scenes=2, max_locks=5)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    llm = LLM(write_checkpoint(tmp_path_factory.mktemp("checkpoint"), embedding_size=80), device="cpu")
    for layer in llm.transformer.layers:
        # So that rows listen to each other and some change their mind.
        layer.attn_out.weight *= 6  # type: ignore[operator, union-attr]
    return llm


Records = dict[str, Record]


def by_prompt(rows: list[Row], name: str) -> dict[int, float]:
    """Sums of a column."""
    return {prompt: total(own, name) for (prompt,), own in grouped(rows, "prompt")}


@pytest.fixture(scope="module")
def records(llm: LLM) -> Records:
    return {name: measure(Bench(llm), PROMPTS, PARAMS, lock, EFFORT) for name, lock in RULES.items()}


def test_no_lock_no_trace(records: Records) -> None:
    never = records["never"]
    assert total(never.steps, "flips") + total(never.steps, "frozen") == 0
    assert all(step["kl"].max() == 0 for step in never.steps)
    assert not never.first_flip
    assert not never.effects
    assert not never.groups
    rows = never.free
    assert [row["agreement"] for row in rows] == [1.0] * 3
    assert all(row["first_difference"] is None for row in rows)


def test_steps_are_counted(llm: LLM, records: Records) -> None:
    mask = llm.config.mask_token_id
    num_flips = dict.fromkeys(RULES, 0)
    num_ghosts = 0
    for batch in (PROMPTS[:2], PROMPTS[2:]):
        for twin in teacher_forced(llm.transformer, batch, PARAMS, RULES):
            for name, side in twin.sides.items():
                found = compare(twin.fresh_logits[twin.masked], side.step.logits[twin.masked], mask)
                num_flips[name] += int(found.flipped.sum())
            literal = twin.sides["literal"]
            num_ghosts += int((literal.frozen & ~twin.given & (literal.locks.age == 0)).sum())
    for name, rule in records.items():
        assert total(rule.steps, "flips") == num_flips[name]
        masked = [sum(len(row["kl"]) for row in rows) for _, rows in sorted(grouped(rule.steps, "step"))]
        assert masked == [3 * left for left in range(N, 0, -1)]
        assert total(rule.steps, "commits") == 3 * N
    assert num_flips["literal"] > 0
    assert total(records["literal"].steps, "ghosts") == num_ghosts > 0
    assert total(records["visible"].steps, "ghosts") == 0


def test_groups_split_the_locks(records: Records) -> None:
    for name, ghosts in (("literal", True), ("visible", False)):
        groups = records[name].groups
        locks = total(where(groups, axis="all"), "locks")
        assert total(where(groups, axis="age"), "locks") == total(where(groups, axis="drift"), "locks") == locks > 0
        assert bool(where(groups, axis="age", group="0")) == ghosts
        assert {row["group"] for row in where(groups, axis="layer")} == {"1", "2"}
        # Layer 1 depends on token and position alone, so only a ghost's keys and values are wrong there.
        first = where(groups, axis="layer", group="1")
        assert (total(first, "kl") / total(first, "rows") > 1e-4) == ghosts


def test_groups_are_recorded_by_sequence(llm: LLM, records: Records) -> None:
    """Intervals over sequences need to know which is which, also beyond the first batch."""
    numbers, amounts = dict.fromkeys(range(3), 0), dict.fromkeys(range(3), 0.0)
    for prompts in ([0, 1], [2]):
        batch = [PROMPTS[prompt] for prompt in prompts]
        for twin in teacher_forced(llm.transformer, batch, PARAMS, {"literal": LITERAL}):
            if twin.step % EFFORT.group_every:
                continue
            side = twin.sides["literal"]
            for index, prompt in enumerate(prompts):
                masked = twin.masked[index]
                logits = (twin.fresh_logits[index, masked], side.step.logits[index, masked])
                numbers[prompt] += int(side.frozen[index].sum())
                amounts[prompt] += float(compare(*logits, llm.config.mask_token_id).kl.sum())
    assert min(numbers.values()) > 0
    groups = records["literal"].groups
    whole = where(groups, axis="all")
    assert by_prompt(whole, "locks") == by_prompt(where(groups, axis="layer", group="2"), "locks") == numbers
    assert by_prompt(whole, "kl") == pytest.approx(amounts, rel=1e-4)
    assert by_prompt(groups, "locks").keys() == numbers.keys()


def test_classes_of_locks(llm: LLM) -> None:
    seen = set()
    for twin in teacher_forced(llm.transformer, PROMPTS[:2], PARAMS, {"literal": LITERAL}):
        side = twin.sides["literal"]
        classes = lock_classes(side, twin.given)
        is_ghost = ~twin.given & (side.locks.age == 0)
        assert torch.equal((classes == GHOST) & side.frozen, is_ghost & side.frozen)
        seen |= {LOCK_CLASSES[index] for index in classes[side.frozen].tolist()}
    assert seen == {"prompt", "0", "1"}


def test_single_locks_are_described(records: Records) -> None:
    literal = records["literal"]
    assert {row["step"] for row in literal.effects} == {3, 6}
    assert max(len(rows) for _, rows in grouped(literal.effects, "prompt", "step")) == 5
    assert {row["lock_class"] for row in literal.effects} == {"prompt", "0", "1"}
    for row in literal.effects:
        assert row["locked_at"] + row["steps_since"] == row["step"]
        assert np.isfinite([row["harm"], row["kl_at_lock"], row["key_drift_2"], row["value_drift_1"]]).all()
        # Layer 1 depends on token and position alone, so only a ghost's keys and values are wrong there.
        assert (row["key_drift_1"] > 0.01) == (row["value_drift_1"] > 0.01) == (row["lock_class"] == "0")


def test_the_first_flip_of_a_prompt_is_its_first(llm: LLM, records: Records) -> None:
    first: dict[int, int] = {}
    for prompts in ([0, 1], [2]):
        for step in teacher_forced(llm.transformer, [PROMPTS[index] for index in prompts], PARAMS, {"locked": LITERAL}):
            found = step.sides["locked"].step.argmax != step.fresh_logits.argmax(2)
            for prompt, flips in zip(prompts, (found & step.masked).sum(1).tolist(), strict=True):
                if flips:
                    first.setdefault(prompt, step.step)
    assert records["literal"].first_flip == first


def test_free_runs_part_where_they_part(llm: LLM, records: Records) -> None:
    starts = [{"prompt_token_ids": ids} for ids in PROMPTS]
    plain = llm.generate(starts, SamplingParams(max_tokens=N, ignore_eos=True, lock=None))
    locked = llm.generate(starts, SamplingParams(max_tokens=N, ignore_eos=True, lock=LITERAL))
    record = records["literal"]
    rows = record.free
    for row, a, b in zip(rows, plain, locked, strict=True):
        same = sum(x == y for x, y in zip(a.token_ids, b.token_ids, strict=True))
        assert row["agreement"] == pytest.approx(same / N)
        assert row["active_ratio"] == b.stats.active_ratio
    assert any(row["first_difference"] is not None for row in rows)
    wanted = [N + 1 - row["first_difference"] if row["first_difference"] else 0 for row in rows]
    for run in ("locked", "control"):
        assert [len(where(record.spread, run=run, prompt=prompt)) for prompt in range(len(PROMPTS))] == wanted
    for table in ("forced_growth", "forced_spread"):
        assert total(where(tables("literal", record)[table], run="locked"), "tokens") == sum(wanted)


def test_first_difference() -> None:
    a = RunPath([9, 5, 6, 7], [0, 1, 2, 3], 1.0)
    assert first_difference(a, a) is None
    assert first_difference(a, RunPath([9, 5, 6, 8], [0, 1, 2, 3], 1.0)) == 3
    assert first_difference(a, RunPath([9, 5, 6, 7], [0, 1, 3, 2], 1.0)) == 2


def test_several_tokens_in_a_step(llm: LLM) -> None:
    params = SamplingParams(max_tokens=N, steps=5, ignore_eos=True)
    record = measure(Bench(llm), PROMPTS, params, LITERAL, EFFORT)
    assert max(row["step"] for row in record.steps) == 5
    assert all(row["control_agreement"] is not None for row in record.free)


def test_tables_add_up(records: Records) -> None:
    record = records["literal"]
    found = tables("literal", record)
    (summary,) = found["forced"]
    steps = found["forced_steps"]
    assert summary["masked_rows"] == sum(row["masked_rows"] for row in steps) == 3 * N * (N + 1) / 2
    flips = sum(row["flip_rate"] * row["masked_rows"] for row in steps)
    assert summary["flip_rate"] * summary["masked_rows"] == pytest.approx(flips)
    assert sum(row["locks"] for row in found["forced_effects"]) == len(record.effects)
    # Of three sequences there is no interval.
    assert {row["kl_per_lock_low"] for row in found["forced_groups"]} == {None}
    predictors = {(row["predictor"], row["layer"]) for row in found["forced_predictors"]}
    assert {("kl_at_lock", None), ("key drift", 1), ("value drift", 2)} <= predictors
    assert {row["rule"] for rows in found.values() for row in rows} == {"literal"}


def test_rank_correlation() -> None:
    values = np.arange(10.0)
    assert spearman(values, values**3) == pytest.approx(1)
    assert spearman(values, -values) == pytest.approx(-1)
    assert spearman(values, values * 0) is None
    assert spearman(values[:3], values[:3]) is None
    # Equal values share their mean rank: 1.5 twice, then 3 to 9.
    tied = np.array([0.0, 0, 1, 2, 3, 4, 5, 6])
    assert spearman(tied, np.arange(8.0)) == pytest.approx(0.994, abs=1e-3)
