"""Sentences about means over sequences say what the numbers say, whichever way those come out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from surelock.eval.twin import TwinRecord
from surelock.eval.twin.certainty import MIN_SEQUENCES, difference_of, mean_of, merged
from surelock.eval.twin.records import Group, RuleRecord, SpreadKey, Sums
from surelock.experiments import per_sequence
from surelock.experiments.findings import oscillation
from surelock.experiments.twin import words

HIGH, LOW, WIDE = [4.0, 4.1, 3.9, 4, 4], [1.0, 1.1, 0.9, 1, 1], [0.0, 9, 0, 9, 0]


def _sums(amounts: Sequence[float], number: int = 1) -> Sums:
    sums = Sums()
    for prompt, amount in enumerate(amounts):
        sums.add(prompt, amount * number, number)
    return sums


def test_means_are_of_all_and_intervals_over_sequences() -> None:
    sums = _sums(HIGH, number=100)
    found = mean_of(sums)
    assert found is not None
    assert found.value == pytest.approx(4)
    assert found.low < 4 < found.high
    # A hundred locks of a sequence say no more than one.
    single = mean_of(_sums(HIGH))
    assert single is not None
    assert single.high - single.low == pytest.approx(found.high - found.low)
    joined = merged([_sums(HIGH), _sums(LOW, number=3)])
    assert joined.number == 20
    assert joined.amount == pytest.approx(20 + 15)


def test_few_sequences_have_no_interval() -> None:
    few, enough = _sums(HIGH[: MIN_SEQUENCES - 1]), _sums(LOW)
    assert mean_of(few) is None
    assert difference_of(few, enough) is difference_of(enough, few) is None
    assert per_sequence.mean(few) == "4"
    assert per_sequence.compared(few, enough) == "fewer than 5 sequences do not tell them apart"


def test_means_are_compared_in_both_directions() -> None:
    assert per_sequence.compared(_sums(HIGH), _sums(LOW)) == "4 times as much"
    assert per_sequence.compared(_sums(LOW), _sums(HIGH)) == "0.25 times as much"
    assert per_sequence.compared(_sums(WIDE), _sums(HIGH)) == "not surely different"
    assert per_sequence.compared(_sums(LOW), _sums([0.0] * 5)) == "more"
    assert per_sequence.compared(_sums(HIGH), _sums(HIGH)) == "not surely different"


@pytest.mark.parametrize(
    ("late", "verdict"),
    [([18, 19, 18, 19, 18], "spreads"), ([2, 1, 2, 1, 2], "fades"), ([0, 20, 20, 0, 12], "neither surely spreads nor")],
)
def test_a_difference_spreads_or_fades_only_where_that_is_sure(late: list[float], verdict: str) -> None:
    record = TwinRecord({"a": RuleRecord()})
    bins = {0: [20.0] * 5, 1: [10.0, 11, 10, 9, 10], 4: late}
    for start, amounts in bins.items():
        for prompt, amount in enumerate(amounts):
            record.growth[SpreadKey("a", "locked", start)].add(prompt, amount, 20)
    (sentence,) = words._cascade(record)
    assert sentence.startswith(f"a: a difference {verdict}")
    # The step of the first difference itself is no part of it.
    assert "50% of the tokens unmasked 1 step after it differ" in sentence
    assert "4 to 7 steps after it" in sentence


@pytest.mark.parametrize("num_prompts", [1, MIN_SEQUENCES - 1])
def test_few_sequences_say_nothing_of_spreading(num_prompts: int) -> None:
    record = TwinRecord({"a": RuleRecord()})
    for start in (1, 2, 4):
        for prompt in range(num_prompts):
            record.growth[SpreadKey("a", "locked", start)].add(prompt, start, 100)
    assert words._cascade(record) == []


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (HIGH, "takes 4 nats off its step on average (95 % 3.9 to 4.1), and helps in 100% of cases"),
        ([-value for value in HIGH], "adds 4 nats to its step on average (95 % 3.9 to 4.1), and helps in 0% of cases"),
        ([1.0, -1, 1, -1, 0.5], "takes 0.1 nats off its step on average, not surely different from 0"),
    ],
)
def test_single_ghosts_may_help_or_harm(harm: list[float], told: str) -> None:
    rule = RuleRecord()
    rule.effects += [{"lock_class": "0", "prompt": prompt, "harm": value} for prompt, value in enumerate(harm)]
    (sentence,) = words._ghosts(TwinRecord({"a": rule}))
    assert told in sentence


def test_ghosts_are_compared_with_the_other_generated_locks() -> None:
    rule = RuleRecord()
    for name, amounts in (("prompt", WIDE), ("0", HIGH), ("1", LOW), ("4+", LOW)):
        rule.groups[Group("age", name)].per_lock = _sums(amounts)
    (sentence,) = words._ghosts(TwinRecord({"a": rule}))
    assert sentence.endswith("other generated locks 1 (95 % 0.94 to 1.1): 4 times as much.")


def test_alternating_locks_are_compared_with_steady_ones() -> None:
    record = RuleRecord()
    for name, amounts in ((oscillation.STEADY, HIGH), (oscillation.OFTEN, WIDE)):
        record.groups[Group("generated", name)].per_lock = _sums(amounts)
    (sentence,) = oscillation._harm_findings({"default": record})
    assert sentence.startswith("default, generated locks: 50.0% of the frozen rows alternate later;")
    assert sentence.endswith("a steady one 4 (95 % 3.9 to 4.1): not surely different.")
