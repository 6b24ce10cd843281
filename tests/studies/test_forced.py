"""What is recorded of runs with locks that repeat the decisions of others, counted again from the steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.bench import Bench
from studies.forced.free import first_difference
from studies.forced.measure import Effort, lock_classes
from studies.forced.paths import Path as RunPath
from studies.forced.records import GHOST, LOCK_CLASSES, Group, Record
from studies.open.twin import measure, spearman, tables
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
EFFORT = Effort(group_every=2, num_probes=2, num_scenes=2, max_locks=5)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    llm = LLM(write_checkpoint(tmp_path_factory.mktemp("checkpoint"), embedding_size=80), device="cpu")
    for layer in llm.transformer.layers:
        # So that rows listen to each other and some change their mind.
        layer.attn_out.weight *= 6  # type: ignore[operator, union-attr]
    return llm


Records = dict[str, Record]


@pytest.fixture(scope="module")
def records(llm: LLM) -> Records:
    return {name: measure(Bench(llm), PROMPTS, PARAMS, lock, EFFORT) for name, lock in RULES.items()}


def test_no_lock_no_trace(records: Records) -> None:
    never = records["never"]
    assert sum(step.num_flips + step.num_frozen for step in never.steps.values()) == 0
    assert all(part.max() == 0 for step in never.steps.values() for part in step.kl)
    assert not never.flips
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
        assert sum(step.num_flips for step in rule.steps.values()) == num_flips[name]
        masked = [sum(map(len, step.kl)) for _, step in sorted(rule.steps.items())]
        assert masked == [3 * left for left in range(N, 0, -1)]
        assert sum(step.num_commits for step in rule.steps.values()) == 3 * N
    assert num_flips["literal"] > 0
    assert sum(step.num_ghosts for step in records["literal"].steps.values()) == num_ghosts > 0
    assert sum(step.num_ghosts for step in records["visible"].steps.values()) == 0


def test_groups_split_the_locks(records: Records) -> None:
    for name, ghosts in (("literal", True), ("visible", False)):
        groups = records[name].groups
        whole = groups[Group("all", "all locks")]
        by_age = [total for group, total in groups.items() if group.axis == "age"]
        assert sum(total.per_lock.number for total in by_age) == whole.per_lock.number > 0
        by_drift = [total for group, total in groups.items() if group.axis == "drift"]
        assert sum(total.per_lock.number for total in by_drift) == whole.per_lock.number
        assert (Group("age", "0") in groups) == ghosts
        assert {int(group.name) for group in groups if group.axis == "layer"} == {1, 2}
        # Layer 1 depends on token and position alone, so only a ghost's keys and values are wrong there.
        first = groups[Group("layer", "1")]
        assert (first.per_lock.amount / first.num_rows > 1e-4) == ghosts


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
    per_lock = records["literal"].groups[Group("all", "all locks")].per_lock
    assert per_lock.numbers == numbers
    assert per_lock.amounts == pytest.approx(amounts, rel=1e-4)
    for total in records["literal"].groups.values():
        assert total.per_lock.numbers.keys() <= numbers.keys()
    of_layer = records["literal"].groups[Group("layer", "2")].per_lock
    assert of_layer.numbers == numbers


def test_classes_of_locks(llm: LLM) -> None:
    seen = set()
    for twin in teacher_forced(llm.transformer, PROMPTS[:2], PARAMS, {"literal": LITERAL}):
        side = twin.sides["literal"]
        classes = lock_classes(side, twin.given)
        is_ghost = ~twin.given & (side.locks.age == 0)
        assert torch.equal((classes == GHOST) & side.frozen, is_ghost & side.frozen)
        seen |= {LOCK_CLASSES[index] for index in classes[side.frozen].tolist()}
    assert seen == {"prompt", "0", "1"}


def test_drift_is_zero_in_the_first_layer_of_all_but_ghosts(records: Records) -> None:
    drifts = records["literal"].drifts
    assert {lock_class for lock_class, _ in drifts} == {"prompt", "0", "1"}
    for (lock_class, _), parts in drifts.items():
        first_layer = np.concatenate(parts, axis=2)[0]
        assert (first_layer > 0.01).all() if lock_class == "0" else (first_layer < 1e-4).all()
    # A position whose token has just become visible: everything moves; masked or long visible: nothing in layer 1.
    assert (np.concatenate(records["literal"].changes[1], axis=2)[0] > 0.01).all()
    assert (np.concatenate(records["literal"].changes[2], axis=2)[0] < 1e-4).all()
    assert (np.concatenate(records["literal"].changes[0], axis=2)[0] < 1e-4).all()


def test_single_locks_and_flips_are_described(records: Records) -> None:
    literal = records["literal"]
    assert {row["step"] for row in literal.effects} == {3, 6}
    assert max(sum((row["prompt"], row["step"]) == key for row in literal.effects) for key in ((0, 3), (1, 6))) <= 5
    for row in literal.effects:
        assert row["locked_at"] + row["steps_since"] == row["step"]
        assert np.isfinite([row["harm"], row["kl_at_lock"], row["key_drift_2"], row["value_drift_1"]]).all()
    assert literal.flips
    for row in literal.flips:
        assert row["fresh_token"] != row["locked_token"]
        assert row["num_guilty"] >= 1
        assert row["step"] >= literal.first_flip[row["prompt"]]
    for prompt in range(3):
        assert len({row["step"] for row in literal.flips if row["prompt"] == prompt}) <= 2


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
    totals = [sums.number for (run, _), sums in record.growth.items() if run == "locked"]
    controls = [sums.number for (run, _), sums in record.growth.items() if run == "control"]
    assert (
        sum(totals) == sum(controls) == sum(N + 1 - row["first_difference"] for row in rows if row["first_difference"])
    )
    for table in (record.growth, record.spread):
        of_prompts = [
            sum(sums.numbers.get(prompt, 0) for key, sums in table.items() if key[0] == "locked")
            for prompt in range(len(PROMPTS))
        ]
        assert of_prompts == [N + 1 - row["first_difference"] if row["first_difference"] else 0 for row in rows]


def test_first_difference() -> None:
    a = RunPath([9, 5, 6, 7], [0, 1, 2, 3], 1.0)
    assert first_difference(a, a) is None
    assert first_difference(a, RunPath([9, 5, 6, 8], [0, 1, 2, 3], 1.0)) == 3
    assert first_difference(a, RunPath([9, 5, 6, 7], [0, 1, 3, 2], 1.0)) == 2


def test_blocks_have_no_control(llm: LLM) -> None:
    params = SamplingParams(max_tokens=N, block_length=5, ignore_eos=True)
    (row,) = measure(Bench(llm), PROMPTS[:1], params, LITERAL, EFFORT).free
    assert row["first_difference"] is not None
    assert row["control_agreement"] is None


def test_several_tokens_in_a_step(llm: LLM) -> None:
    params = SamplingParams(max_tokens=N, steps=5, ignore_eos=True)
    record = measure(Bench(llm), PROMPTS, params, LITERAL, EFFORT)
    assert max(record.steps) == 5
    assert all(row["control_agreement"] is not None for row in record.free)


def test_tables_add_up(records: Records) -> None:
    record = records["literal"]
    found = tables("literal", record)
    (summary,) = found["twin"]
    steps = found["twin_steps"]
    assert summary["masked_rows"] == sum(row["masked_rows"] for row in steps) == 3 * N * (N + 1) / 2
    flips = sum(row["flip_rate"] * row["masked_rows"] for row in steps)
    assert summary["flip_rate"] * summary["masked_rows"] == pytest.approx(flips)
    assert sum(row["locks"] for row in found["twin_effects"]) == len(record.effects)
    # Of three sequences there is no interval.
    assert {row["kl_per_lock_low"] for row in found["twin_groups"]} == {None}
    predictors = {(row["predictor"], row["layer"]) for row in found["twin_predictors"]}
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
