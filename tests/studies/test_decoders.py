"""Decoders, workloads and measures: many in one batch are each as if alone, and what they cost is counted."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from studies import measures
from studies.bench import (
    TRAINED,
    Bench,
    Case,
    Length,
    Options,
    common_lengths,
    faster,
    first_of_each,
    lengths,
    parse_length,
    problems,
)
from studies.decoders import Decoded, Decoder, both, decode_all
from studies.forced.damage import measure_damage
from studies.measures import Outcome, paper_cost, right, rows_computed
from studies.paper.throughput import in_turn, one_after_another
from studies.policies import AfterOneStep, ByDrift, ByKL, Policy, Refreshed, Unlocking, UnlockOnDrift
from surelock import LLM, LockParams, SamplingParams
from surelock.bench.driving import Job
from surelock.decoding.oracle import oracle_decode
from surelock.errors import ParameterError
from surelock.flops import RowCost
from surelock.measure.instrumented import InstrumentedDecoder, RefreshEvery
from tests.studies.conftest import FakeJudge

PARAMS = SamplingParams(max_tokens=12, steps=12, ignore_eos=True, lock=None)
LOCK = LockParams.permanent(0.2)
UNLOCKING = Unlocking(by="kl", threshold=1e-4, period=3, min_locked=1, cool_down=2)
DECODERS = [
    Decoder(label={"rule": "none"}, policy=Policy),
    Decoder(label={"rule": "kl"}, policy=partial(ByKL, LOCK)),
    Decoder(label={"rule": "always"}, policy=AfterOneStep),
    Decoder(label={"rule": "refreshed"}, policy=partial(Refreshed, partial(ByKL, LOCK), 3)),
    Decoder(label={"rule": "drift"}, policy=partial(ByDrift, 0.2, "both")),
    Decoder(label={"rule": "unlocked"}, policy=partial(UnlockOnDrift, LOCK, UNLOCKING)),
]


@pytest.fixture
def bench(tiny: LLM, judge: FakeJudge) -> Bench:
    return Bench(tiny)


def cases(num: int, params: SamplingParams = PARAMS) -> list[Case]:
    generator = torch.Generator().manual_seed(3)
    found = torch.randint(5, 900, (num, 6), generator=generator).tolist()
    return [Case(tuple(prompt), params) for prompt in found]


def outcome(bench: Bench, own: list[Case], decoder: Decoder, runs: list[Decoded], base: list[Decoded]) -> Outcome:
    return Outcome(bench, {}, own, decoder, runs, base, runs is base)


def test_each_policy_is_as_if_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    own = cases(3)
    whole = decode_all(bench, own, DECODERS)
    # Batches that end within a policy.
    monkeypatch.setattr(InstrumentedDecoder, "batch_size", lambda *arguments: 4)
    assert decode_all(bench, own, DECODERS) == whole
    for decoder, runs in zip(DECODERS, whole, strict=True):
        assert decode_all(bench, own, [decoder]) == [runs]
    none, by_kl, always, refreshed, *_ = whole
    assert all(run.active == run.possible for run in none)
    assert sum(run.refreshed for run in refreshed) > 0
    assert sum(run.locks for run in always) > sum(run.locks for run in none) == 0
    assert all(run.unlocks == 0 for run in (*by_kl, *refreshed))


def test_a_policy_by_kl_is_the_engines_rule(bench: Bench) -> None:
    own = cases(4)
    dense, engine = decode_all(bench, own, [DECODERS[1], Decoder(lock=LOCK)])
    num_compared = 0
    for case, run, other in zip(own, dense, engine, strict=True):
        mask = bench.llm.config.mask_token_id
        params = replace(PARAMS, lock=LOCK)
        expected = oracle_decode(bench.llm.transformer, case.prompt, params, mask_token_id=mask, seed=0)
        if expected.margin > 2e-4:
            assert run.generated == other.generated == expected.tokens[6:]
            assert run.active == other.active == sum(expected.active_rows)
            assert run.exact == pytest.approx(other.exact)
            assert run.full == pytest.approx(other.full)
            num_compared += 1
    assert num_compared >= 1


def test_refreshing_is_the_decoders(bench: Bench) -> None:
    own = cases(2)
    (found,) = decode_all(bench, own, [DECODERS[3]])
    dense = InstrumentedDecoder(bench.llm.transformer)
    record = dense.run([case.prompt for case in own], replace(PARAMS, lock=LOCK), refresh=RefreshEvery(3))
    assert [run.generated for run in found] == record.tokens[:, 6:].tolist()
    assert [run.active for run in found] == record.num_active.sum(0).tolist()


def test_the_delayed_cache_counts_its_rows(bench: Bench) -> None:
    params = replace(PARAMS, max_tokens=6, steps=6)
    own = [Case(prompt, params) for prompt in ((5, 6, 7, 8), (8, 9), (9, 9, 5, 6))]
    cached, free = decode_all(bench, own, [Decoder(policy=partial(Refreshed, AfterOneStep, 3)), Decoder(policy=Policy)])
    # Of 4 + 6 positions: all; the masks and the newest token; all (refreshed); 3 masks and 1; 2 and 1; all.
    assert [run.active for run in cached] == [10 + 6 + 10 + 4 + 3 + 10, 8 + 6 + 8 + 4 + 3 + 8, 43]
    assert [run.active for run in free] == [run.possible for run in free] == [60, 48, 60]


def test_costs_by_hand(bench: Bench) -> None:
    params = replace(PARAMS, max_tokens=6, steps=6)
    own = [Case((token,) * num, params) for token, num in ((5, 3), (6, 7), (7, 5), (8, 5), (9, 2))]
    decoder = Decoder(lock=LockParams.permanent(1e9))
    (runs,) = decode_all(bench, own, [decoder])
    found = paper_cost(outcome(bench, own, decoder, runs, runs))
    rows = sum(run.active for run in runs)
    assert found["active_ratio"] == pytest.approx(rows / (6 * sum(len(case.prompt) + 6 for case in own)))
    # The first four are padded to 13 positions, and pads are computed in every step; the last is alone.
    pads = 6 * (4 + 0 + 2 + 2)
    assert found["paper_active_ratio"] == pytest.approx((rows + pads) / (6 * (4 * 13 + 8)))
    assert found["masked_floor"] < found["exact_ratio"] < found["paper_ratio"] < 1
    assert measures.batches(5) == [slice(0, 4), slice(4, 5)]


def test_head_rows_of_policies_are_counted(bench: Bench) -> None:
    own = cases(1)
    ((run,),) = decode_all(bench, own, [DECODERS[1]])
    cost = RowCost.from_config(bench.llm.config)
    masked = 12 * 13 / 2
    assert run.exact == (run.active * cost.transformer(18), 216 * cost.transformer(18))
    assert run.full[1] - run.exact[1] == cost.head * masked
    head_rows = (run.full[0] - run.exact[0]) / cost.head - masked
    assert head_rows > 0
    assert head_rows % 2 == 0
    ratio = rows_computed(outcome(bench, own, DECODERS[1], [run], [run]))
    assert ratio["exact_ratio"] == ratio["active_ratio"] == pytest.approx(run.active / 216)


def test_equal_requests_are_decoded_and_judged_once(bench: Bench, judge: FakeJudge) -> None:
    own = [replace(case, text="prefix") for case in cases(2)]
    first = decode_all(bench, own, both(0.2))
    num = len(bench.decoded)
    assert decode_all(bench, own, both(0.2)) == first
    assert len(bench.decoded) == num == 4
    judge.asked.clear()
    scores = measures.judged(bench, own * 2, first[0] * 2)
    assert len(judge.asked) == len({run.text for run in first[0]})
    assert scores[:2] == scores[2:]


def test_right_answers_by_hand(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    free, own = [True] * 6 + [False] * 2, [True] * 4 + [False] * 3 + [True]
    run = Decoded(
        text="", kept=[1], generated=[1], num_positions=2, num_steps=1, rows=[2], exact=(1.0, 1.0), full=(1.0, 1.0)
    )
    base, runs = [replace(run) for _ in free], [replace(run, generated=[2]) for _ in own]
    of = {id(base): free, id(runs): own}
    monkeypatch.setattr(measures, "answers", lambda cases, given: of[id(given)])
    row = right(outcome(bench, cases(8), Decoder(), runs, base))
    assert (row["num_problems"], row["accuracy"], row["difference"]) == (8, 5 / 8, -1 / 8)
    assert (row["num_lost"], row["num_won"], row["mcnemar_p"]) == (2, 1, 1)
    assert (row["agreement"], row["identical"]) == (0, 1)
    alone = right(outcome(bench, cases(8), Decoder(), base, base))
    assert list(alone) == list(row)
    assert (alone["accuracy"], alone["difference"]) == (6 / 8, None)


def test_damage_of_no_lock_is_none_and_of_any_lock_some(bench: Bench) -> None:
    canvases = [case.prompt for case in cases(3)]
    none, by_kl, always = measure_damage(bench, canvases, PARAMS, [Policy, partial(ByKL, LOCK), AfterOneStep])
    num_masked = 3 * 12 * 13 / 2
    assert none == {
        "active_ratio": 1, "locks": 0, "frozen": 0, "masked_rows": num_masked, "flip_rate": 0, "kl_per_row": 0,
        "kl_per_frozen": None,
    }  # fmt: skip
    assert by_kl["masked_rows"] == always["masked_rows"] == num_masked
    assert always["kl_per_row"] > 0
    assert always["frozen"] > by_kl["frozen"] >= 0
    assert always["kl_per_frozen"] == pytest.approx(always["kl_per_row"] * num_masked / always["frozen"])


def test_problems_are_fitted_to_their_answers(bench: Bench) -> None:
    found = problems(bench, ("unit", "shop"), num_per_task=2)
    assert [case.problem.task for case in found if case.problem] == ["unit", "unit", "shop", "shop"]
    for case in found:
        assert case.problem is not None
        num = len(bench.tokenizer.encode(case.problem.answer, bos=False)) + 1
        assert case.params.max_tokens % 32 == 0
        assert num <= case.params.max_tokens < num + 32
    assert {faster(case, 4).params.steps for case in found} == {case.params.max_tokens // 4 for case in found}
    assert len(first_of_each(found, 1)) == 2
    (padded,) = {case.params.max_tokens for case in problems(bench, ("unit",), num_per_task=2, canvas="padded")}
    assert padded == 128


def test_problems_of_common_lengths(bench: Bench) -> None:
    found = common_lengths(bench, ("shop", "unit"), 8)
    assert len(found) == 8
    # Two of each kind and level, and both of one length.
    assert [len({len(case.prompt) for case in found[start : start + 2]}) for start in range(0, 8, 2)] == [1] * 4
    assert {case.params.max_tokens for case in common_lengths(bench, ("shop",), 4, max_tokens=32)} <= {32}


def test_what_is_too_long_is_left_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(bench, TRAINED, num_per_task=1)
    longest = max(len(case.prompt) + case.params.max_tokens for case in found)
    monkeypatch.setattr(bench.llm, "config", replace(bench.llm.config, max_sequence_length=longest - 1))
    assert len(problems(bench, TRAINED, num_per_task=1)) < len(found)
    (line,) = bench.left_out
    assert f"longer than the model's {longest - 1} positions" in line
    assert bench.fitting(lengths(8, longest), [[1, 2]]) == list(lengths(8))
    assert f"N_gen/steps {longest}/{longest}" in bench.left_out[1]


def test_lengths() -> None:
    assert lengths(64, (64, 32)) == (Length(64, 64), Length(64, 32))
    assert parse_length(" 128/64") == Length(128, 64)
    for wrong in ("", "0", "64/0", "8/9", "-1", "1e3", "9999999"):
        with pytest.raises(ParameterError, match="a length is"):
            parse_length(wrong)
    assert Length(64, 64).masked_floor(64) == pytest.approx(65 / 256)
    # Two tokens a step: 8, 6, 4 and 2 masks of 10 positions.
    assert Length(8, 4).masked_floor(2) == pytest.approx((8 + 6 + 4 + 2) / 40)


def test_offline_reaches_the_judge(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from surelock.measure.judge import Judge

    given: dict[str, object] = {}
    monkeypatch.setattr(Judge, "load", lambda model, **options: given.update(model=model, **options))
    Bench(tiny, Options(judge="some/judge", offline=True)).judge  # noqa: B018
    assert given == {"model": "some/judge", "device": tiny.device, "dtype": None, "offline": True}


@pytest.mark.parametrize("timing", [in_turn, one_after_another])
def test_sides_are_timed_over_the_same_steps(timing: object, tiny: LLM) -> None:
    sides = {"no lock": None, "permanent rule": LockParams.permanent(1e9), "paper rule": LockParams.paper(1e9)}
    jobs = {
        name: [Job(prompt, SamplingParams(max_tokens=8, lock=lock)) for prompt in ([5] * 6, [7] * 3)]
        for name, lock in sides.items()
    }
    assert callable(timing)
    found, drift = timing(tiny, jobs, 14)
    assert drift is None or drift > 0
    assert {name: len(timed.steps) for name, timed in found.items()} == dict.fromkeys(sides, 8)
    assert found["no lock"].active_ratio == 1 > found["permanent rule"].active_ratio
