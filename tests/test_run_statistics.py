"""What the public door reports about a run, against counts made by hand from its updates and against the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from surelock import LLM, EngineConfig, LockParams, RequestOutput, SamplingParams, StepUpdate
from surelock.decoding.oracle import oracle_decode
from surelock.flops import RowCost
from surelock.measure.verify import noise_floor
from surelock.models.transformer import Transformer
from tests.checkpoints import write_checkpoint

IDS = [3, 14, 15, 9, 2]
BLOCK = 8
PROMPT = {"prompt_token_ids": IDS}
# The literal rule, so that positions lock in the step that commits them; the gate holds some back.
LOCK = LockParams(kl_threshold=0.2, confidence_percentile=50, min_visible_steps=0, refresh=6)
PARAMS = SamplingParams(
    max_tokens=2 * BLOCK, cfg_scale=0.7, block_length=BLOCK, steps=20, ignore_eos=True, seed=1, lock=LOCK
)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM(write_checkpoint(tmp_path_factory.mktemp("tiny"), seed=1), device="cpu")


@pytest.fixture(scope="module")
def updates(llm: LLM) -> list[StepUpdate]:
    return list(llm.stream(PROMPT, PARAMS))


def output_of(updates: list[StepUpdate]) -> RequestOutput:
    output = updates[-1].output
    assert output is not None
    return output


def before(updates: list[StepUpdate]) -> Iterator[tuple[StepUpdate, list[int | None], list[bool]]]:
    """Each update with the canvas and the locks its step began with."""
    canvas: list[int | None] = [*IDS, *[None] * PARAMS.max_tokens]
    locked = [False] * len(canvas)
    for update in updates:
        yield update, canvas, locked
        canvas, locked = update.canvas_token_ids, update.locked


def rows_of(step: int, locked: list[bool]) -> int:
    """Rows of a step that began with these locks; a refresh computes all."""
    return len(locked) if step % 6 == 0 else locked.count(False)


def test_a_guided_gated_request_equals_the_oracle(llm: LLM, updates: list[StepUpdate]) -> None:
    oracle = oracle_decode(llm.transformer, IDS, PARAMS, mask_token_id=llm.config.mask_token_id, seed=1)
    assert oracle.margin > 1e-5
    output = output_of(updates)
    assert output.canvas_token_ids == oracle.tokens
    assert output.stats.locked_at == oracle.locked_at
    assert output.stats.active_rows == oracle.active_rows
    assert any(step is not None for step in oracle.locked_at[: len(IDS)])
    assert any(step is not None for step in oracle.locked_at[len(IDS) :])


def test_updates_name_the_locks_of_each_step(updates: list[StepUpdate]) -> None:
    locked_at = output_of(updates).stats.locked_at
    for update in updates:
        assert update.locked_now == [p for p, step in enumerate(locked_at) if step == update.step]
        assert update.locked == [step is not None and step <= update.step for step in locked_at]
        assert update.num_prompt == len(IDS)
    for update, canvas, locked in before(updates):
        assert update.active_rows == rows_of(update.step, locked)
        assert update.committed == [
            p for p, token in enumerate(canvas) if token is None and update.canvas_token_ids[p] is not None
        ]


def test_kl_is_of_every_candidate_of_each_step(updates: list[StepUpdate]) -> None:
    for update, _, locked in before(updates):
        candidates = [p for p, token in enumerate(update.canvas_token_ids) if token is not None and not locked[p]]
        is_tested = 1 < update.step < update.num_steps
        assert sorted(update.kl) == (candidates if is_tested else [])


@pytest.mark.parametrize("scope", ["candidates", "active"])
def test_kl_is_the_divergence_of_two_plain_forwards(llm: LLM, scope: str) -> None:
    # The gate lets one position in a step pass at most, and the threshold none: every forward is a plain one.
    lock = LockParams(kl_threshold=0.0, confidence_percentile=0, gate_scope=scope)  # type: ignore[arg-type]
    params = SamplingParams(max_tokens=6, lock=lock, ignore_eos=True)
    canvas, previous = [*IDS, *[None] * 6], None
    for update in llm.stream(PROMPT, params):
        ids = [llm.config.mask_token_id if token is None else token for token in canvas]
        now = llm.logits(ids).double().log_softmax(1)
        if update.step in (1, update.num_steps):
            assert not update.kl
        else:
            assert previous is not None
            tested = [p for p, token in enumerate(canvas) if token is not None or scope == "active"]
            assert sorted(update.kl) == tested
            expected = (now.exp() * (now - previous)).sum(1)
            torch.testing.assert_close(
                torch.tensor([update.kl[p] for p in tested]).double(), expected[tested], rtol=1e-3, atol=1e-6
            )
            assert max(update.kl.values()) > 1e-3
        assert not update.locked_now
        canvas, previous = update.canvas_token_ids, now


def test_flops_count_both_streams_and_every_row_whose_logits_were_computed(llm: LLM, updates: list[StepUpdate]) -> None:
    cost, num_positions = RowCost.from_config(llm.config), len(IDS) + PARAMS.max_tokens
    row, num_steps = cost.transformer(num_positions), len(updates)
    num_proposed = num_scored = num_active = 0
    for update, canvas, locked in before(updates):
        num_active += rows_of(update.step, locked)
        num_scored += len(update.kl)
        # 20 steps for two blocks of 8: ten each, of which the last two would be idle and are not run.
        block = (update.step - 1) // BLOCK
        num_proposed += canvas[: len(IDS) + BLOCK * (block + 1)].count(None)
    assert num_proposed != num_scored
    stats = output_of(updates).stats
    assert stats.flops["exact"]["base"] == 2 * num_steps * num_positions * row
    assert stats.flops["exact"]["locked"] == 2 * num_active * row
    assert stats.flops["full"]["base"] == 2 * num_steps * num_positions * row + cost.head * num_proposed
    assert stats.flops["full"]["locked"] == 2 * num_active * row + cost.head * (num_proposed + 2 * num_scored)
    assert stats.flops["paper"]["base"] == num_steps * row
    assert updates[-1].flops == (stats.flops["full"]["locked"], stats.flops["full"]["base"])
    # Nothing is tested in the first step, and the first block's masks are proposed.
    first = 2 * num_positions * row + cost.head * BLOCK
    assert updates[0].flops == (first, first)


def test_gate_blocked_counts_what_passed_the_kl_test_and_did_not_lock(updates: list[StepUpdate]) -> None:
    blocked = [
        position
        for update in updates
        for position, kl in update.kl.items()
        if kl <= LOCK.kl_threshold and position not in update.locked_now
    ]
    assert output_of(updates).stats.gate_blocked == len(blocked) > 0


def test_ghosts_locked_in_the_step_that_committed_them(llm: LLM, updates: list[StepUpdate]) -> None:
    ghosts = sum(len(set(update.committed) & set(update.locked_now)) for update in updates)
    locks = sum(position >= len(IDS) for update in updates for position in update.locked_now)
    assert 0 < ghosts < locks
    assert output_of(updates).stats.ghost_rate == ghosts / locks
    visible = replace(PARAMS, lock=replace(LOCK, min_visible_steps=1))
    output = llm.generate(PROMPT, visible)[0]
    assert any(output.stats.locked_at[len(IDS) :])
    assert output.stats.ghost_rate == 0


def test_a_raised_number_of_steps_is_noted(llm: LLM) -> None:
    (output,) = llm.generate(PROMPT, SamplingParams(max_tokens=6, block_length=2, steps=2))
    assert output.notes == ("steps raised from 2 to 3: each of the 3 blocks needs one",)
    assert output.stats.steps == 3


def test_on_step_sees_every_update_of_every_prompt(llm: LLM) -> None:
    prompts = [PROMPT, {"prompt_token_ids": [5, 6]}]
    params = replace(PARAMS, max_tokens=4)
    seen: list[StepUpdate] = []
    outputs = llm.generate(prompts, params, on_step=seen.append)
    assert seen == list(llm.stream(prompts, params))
    assert [update.output for update in seen if update.output is not None] == outputs
    assert outputs == llm.generate(prompts, params)


@pytest.mark.parametrize(("size", "order"), [(1, [0, 0, 0, 1, 1, 1]), (2, [0, 1, 0, 1, 0, 1])])
def test_engine_config_limits_the_batch(tmp_path: Path, size: int, order: list[int]) -> None:
    config = EngineConfig(max_batch_size=size)
    llm = LLM(write_checkpoint(tmp_path), device="cpu", engine_config=config)
    assert llm.engine_config is config
    params = SamplingParams(max_tokens=3)
    assert [update.index for update in llm.stream([PROMPT, PROMPT], params)] == order


def test_a_stream_closed_midway_leaves_nothing_behind(llm: LLM, updates: list[StepUpdate]) -> None:
    stream = llm.stream([PROMPT, PROMPT], PARAMS)
    for _ in range(7):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert list(llm.stream(PROMPT, PARAMS)) == updates


def test_two_streams_do_not_disturb_each_other(llm: LLM, updates: list[StepUpdate]) -> None:
    pairs = list(zip(llm.stream(PROMPT, PARAMS), llm.stream(PROMPT, PARAMS), strict=True))
    assert [first for first, _ in pairs] == [second for _, second in pairs] == updates


def test_on_step_that_raises_leaves_nothing_behind(llm: LLM, updates: list[StepUpdate]) -> None:
    def stop(update: StepUpdate) -> None:
        if update.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPT, PARAMS, on_step=stop)
    assert llm.generate(PROMPT, PARAMS) == [output_of(updates)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_noise_floor_compares_batches_of_other_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    llm = LLM(write_checkpoint(tmp_path), device="cpu", dtype=dtype)
    compute = Transformer.hidden

    # Rounding that depends on the number of rows, which not every machine has for a model this small.
    def shape_dependent(self: Transformer, batch: object, kv: object) -> torch.Tensor:
        hidden = compute(self, batch, kv)  # type: ignore[arg-type]
        return hidden * (1 + len(hidden) / 2**11)

    exact = noise_floor(llm, PROMPT, SamplingParams(max_tokens=8))
    assert exact["max"] < 1e-2
    monkeypatch.setattr(Transformer, "hidden", shape_dependent)
    floor = noise_floor(llm, PROMPT, SamplingParams(max_tokens=8))
    assert 0 < floor["median"] <= floor["p99"] <= floor["max"]
    assert floor["max"] > exact["max"]
