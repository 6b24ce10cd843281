"""What is recorded of a twin run, counted again from the steps themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surelock import LLM, LockParams, SamplingParams
from surelock.errors import ParameterError, PromptError
from surelock.eval.twin import Effort, TwinRecord, run_twin, teacher_forced
from surelock.eval.twin.compare import compare
from surelock.eval.twin.free import Path as RunPath
from surelock.eval.twin.free import first_difference
from surelock.eval.twin.measure import lock_classes
from surelock.eval.twin.records import GHOST, LOCK_CLASSES, Group
from tests.checkpoints import write_checkpoint

PROMPTS = [[1, 2, 3], [4, 5, 6], [7, 8]]
N = 9
PARAMS = SamplingParams(max_tokens=N, ignore_eos=True)
LITERAL = LockParams(kl_threshold=1e6, min_visible_steps=0)
VISIBLE = LockParams(kl_threshold=1e6)
RULES = {"never": LockParams(kl_threshold=-1.0), "literal": LITERAL, "visible": VISIBLE}
EFFORT = Effort(group_every=2, num_probes=2, num_scenes=2, max_locks=5)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    llm = LLM(write_checkpoint(tmp_path_factory.mktemp("checkpoint"), embedding_size=80), device="cpu")
    for layer in llm.transformer.layers:
        # So that rows listen to each other and some change their mind.
        layer.attn_out.weight *= 6  # type: ignore[operator, union-attr]
    return llm


@pytest.fixture(scope="module")
def record(llm: LLM) -> TwinRecord:
    return run_twin(llm, PROMPTS, PARAMS, RULES, effort=EFFORT)


def test_no_lock_no_trace(record: TwinRecord) -> None:
    never = record.rules["never"]
    assert sum(step.num_flips + step.num_frozen for step in never.steps.values()) == 0
    assert all(part.max() == 0 for step in never.steps.values() for part in step.kl)
    assert not never.flips
    assert not never.effects
    assert not never.groups
    rows = [row for row in record.free if row["rule"] == "never"]
    assert [row["agreement"] for row in rows] == [1.0] * 3
    assert all(row["first_difference"] is None for row in rows)


def test_steps_are_counted(llm: LLM, record: TwinRecord) -> None:
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
    for name, rule in record.rules.items():
        assert sum(step.num_flips for step in rule.steps.values()) == num_flips[name]
        masked = [sum(map(len, step.kl)) for _, step in sorted(rule.steps.items())]
        assert masked == [3 * left for left in range(N, 0, -1)]
        assert sum(step.num_commits for step in rule.steps.values()) == 3 * N
    assert num_flips["literal"] > 0
    assert sum(step.num_ghosts for step in record.rules["literal"].steps.values()) == num_ghosts > 0
    assert sum(step.num_ghosts for step in record.rules["visible"].steps.values()) == 0


def test_groups_split_the_locks(record: TwinRecord) -> None:
    for name, ghosts in (("literal", True), ("visible", False)):
        groups = record.rules[name].groups
        whole = groups[Group("all", "all locks")]
        by_age = [total for group, total in groups.items() if group.axis == "age"]
        assert sum(total.num_locks for total in by_age) == whole.num_locks > 0
        by_drift = [total for group, total in groups.items() if group.axis == "drift"]
        assert sum(total.num_locks for total in by_drift) == whole.num_locks
        assert (Group("age", "0") in groups) == ghosts
        assert {int(group.name) for group in groups if group.axis == "layer"} == {1, 2}
        # Layer 1 depends on token and position alone, so only a ghost's keys and values are wrong there.
        first = groups[Group("layer", "1")]
        assert (first.kl_sum / first.num_rows > 1e-4) == ghosts


def test_groups_are_recorded_by_sequence(llm: LLM, record: TwinRecord) -> None:
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
    per_lock = record.rules["literal"].groups[Group("all", "all locks")].per_lock
    assert per_lock.numbers == numbers
    assert per_lock.amounts == pytest.approx(amounts, rel=1e-4)
    for total in record.rules["literal"].groups.values():
        assert total.per_lock.numbers.keys() <= numbers.keys()
    of_layer = record.rules["literal"].groups[Group("layer", "2")].per_lock
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


def test_drift_is_zero_in_the_first_layer_of_all_but_ghosts(record: TwinRecord) -> None:
    drifts = record.rules["literal"].drifts
    assert {lock_class for lock_class, _ in drifts} == {"prompt", "0", "1"}
    for (lock_class, _), parts in drifts.items():
        first_layer = np.concatenate(parts, axis=2)[0]
        assert (first_layer > 0.01).all() if lock_class == "0" else (first_layer < 1e-4).all()
    # A position whose token has just become visible: everything moves; masked or long visible: nothing in layer 1.
    assert (np.concatenate(record.changes[1], axis=2)[0] > 0.01).all()
    assert (np.concatenate(record.changes[2], axis=2)[0] < 1e-4).all()
    assert (np.concatenate(record.changes[0], axis=2)[0] < 1e-4).all()


def test_single_locks_and_flips_are_described(record: TwinRecord) -> None:
    literal = record.rules["literal"]
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


def test_free_runs_part_where_they_part(llm: LLM, record: TwinRecord) -> None:
    starts = [{"prompt_token_ids": ids} for ids in PROMPTS]
    plain = llm.generate(starts, SamplingParams(max_tokens=N, ignore_eos=True, lock=None))
    locked = llm.generate(starts, SamplingParams(max_tokens=N, ignore_eos=True, lock=LITERAL))
    rows = [row for row in record.free if row["rule"] == "literal"]
    for row, a, b in zip(rows, plain, locked, strict=True):
        same = sum(x == y for x, y in zip(a.token_ids, b.token_ids, strict=True))
        assert row["agreement"] == pytest.approx(same / N)
        assert row["active_ratio"] == b.stats.active_ratio
    assert any(row["first_difference"] is not None for row in rows)
    totals = [sums.number for key, sums in record.growth.items() if (key.rule, key.run) == ("literal", "locked")]
    controls = [sums.number for key, sums in record.growth.items() if (key.rule, key.run) == ("literal", "control")]
    assert (
        sum(totals) == sum(controls) == sum(N + 1 - row["first_difference"] for row in rows if row["first_difference"])
    )
    for table in (record.growth, record.spread):
        of_prompts = [
            sum(sums.numbers.get(prompt, 0) for key, sums in table.items() if key[:2] == ("literal", "locked"))
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
    record = run_twin(llm, PROMPTS[:1], params, {"literal": LITERAL}, effort=EFFORT)
    (row,) = record.free
    assert row["first_difference"] is not None
    assert row["control_agreement"] is None


def test_what_has_no_twin_is_refused(llm: LLM) -> None:
    with pytest.raises(ParameterError, match="temperature 0"):
        run_twin(llm, PROMPTS, SamplingParams(temperature=1.0), {"literal": LITERAL})
    with pytest.raises(ParameterError, match="no rule"):
        run_twin(llm, PROMPTS, PARAMS, {})
    with pytest.raises(PromptError, match="limit is 128"):
        run_twin(llm, PROMPTS, SamplingParams(max_tokens=126), {"literal": LITERAL})


def test_several_tokens_in_a_step(llm: LLM) -> None:
    params = SamplingParams(max_tokens=N, steps=5, ignore_eos=True)
    record = run_twin(llm, PROMPTS, params, {"literal": LITERAL}, effort=EFFORT)
    assert max(record.rules["literal"].steps) == 5
    assert all(row["control_agreement"] is not None for row in record.free)
