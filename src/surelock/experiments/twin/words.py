"""What was found in the twins, in sentences made from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from surelock.eval.twin.certainty import MIN_SEQUENCES, difference_of, mean_of, merged
from surelock.eval.twin.free import BINS
from surelock.eval.twin.records import Row, Sums, TwinRecord
from surelock.experiments import per_sequence, wording
from surelock.experiments.twin.summary import correlation_rows, harm_sums, rule_rows

# Fewer tokens of a bin make no share.
MIN_TOKENS: Final = 10


def findings(record: TwinRecord) -> list[str]:
    """One paragraph's sentences."""
    rules = rule_rows(record)
    sentences = [_divergence(row) for row in rules]
    sentences += _ghosts(record)
    sentences += _changes(record)
    sentences += _predictors(correlation_rows(record))
    sentences += _guilty(record)
    sentences += [_free(row) for row in rules if row["prompts_that_part"]]
    sentences += _cascade(record)
    return sentences


def _divergence(row: Row) -> str:
    if not row["flips"] and row["kl_max"] == 0:
        return f"{row['rule']}: with the same unmasking decisions no masked row differs at all."
    first = (
        "no canvas had a flip"
        if row["first_flip"] is None
        else f"the first flip came at step {row['first_flip']:g} (median)"
    )
    return (
        f"{row['rule']} (active ratio {row['active_ratio']:.3f}): with the same unmasking decisions masked rows "
        f"diverge by {row['kl_mean']:.2g} nats on average (median {row['kl_median']:.2g}, 95th percentile "
        f"{row['kl_p95']:.2g}); {row['flip_rate']:.2%} of them propose another token, "
        f"{row['commit_flip_rate']:.2%} of those unmasked in that step; {row['ghost_share']:.1%} of the frozen rows "
        f"read are ghosts; {first}."
    )


def _ghosts(record: TwinRecord) -> list[str]:
    sentences = []
    for name, rule in record.rules.items():
        ages = {group.name: total for group, total in rule.groups.items() if group.axis == "age"}
        others = [total.per_lock for age, total in ages.items() if age not in ("0", "prompt")]
        if "0" in ages and others:
            ghosts, rest = ages["0"].per_lock, merged(others)
            sentences.append(
                f"{name}: ghosts frozen alone cost the masked rows {per_sequence.mean(ghosts)} nats per lock, other "
                f"generated locks {per_sequence.mean(rest)}: {per_sequence.compared(ghosts, rest)}."
            )
        harm = harm_sums(rule, "0")
        if harm.number:
            helps = sum(row["harm"] > 0 for row in rule.effects if row["lock_class"] == "0") / harm.number
            sentences.append(f"{name}: setting a single ghost free {_effect(harm)}, and helps in {helps:.0%} of cases.")
    return sentences


def _effect(harm: Sums) -> str:
    value, interval = harm.amount / harm.number, mean_of(harm)
    words = f"{'takes' if value >= 0 else 'adds'} {abs(value):.2g} nats {'off' if value >= 0 else 'to'} its step"
    if interval is None:
        return f"{words} on average"
    ends = sorted((abs(interval.low), abs(interval.high)))
    if interval.low <= 0 <= interval.high:
        return f"{words} on average, not surely different from 0 (95 % {interval.low:.2g} to {interval.high:.2g} off)"
    return f"{words} on average (95 % {ends[0]:.2g} to {ends[1]:.2g})"


def _changes(record: TwinRecord) -> list[str]:
    if 1 not in record.changes or 2 not in record.changes:
        return []
    first, second = (float(np.median(np.concatenate(record.changes[age], axis=2)[:, 1])) for age in (1, 2))
    return [
        f"Without locks a position's values change by {first:.2f} of their length in the step after it is unmasked and "
        f"by {second:.3f} in the next (median over layers); a ghost freezes those of before both."
    ]


def _predictors(correlations: Sequence[Row]) -> list[str]:
    sentences = []
    for rule in dict.fromkeys(row["rule"] for row in correlations):
        rows = [row for row in correlations if row["rule"] == rule and row["spearman"] is not None]
        drifts = [row for row in rows if row["layer"] is not None]
        kl = next((row for row in rows if row["predictor"] == "kl_at_lock"), None)
        if drifts and kl is not None:
            best = max(drifts, key=lambda row: float(row["spearman"]))
            sentences.append(
                f"{rule}: over {best['locks']} single locks, of all {len(drifts)} drifts the {best['predictor']} of "
                f"layer {best['layer']} has the highest rank correlation with the harm of a lock, "
                f"{best['spearman']:.2f}; the KL it locked at has {kl['spearman']:.2f}."
            )
    return sentences


def _guilty(record: TwinRecord) -> list[str]:
    sentences = []
    for name, rule in record.rules.items():
        traced = [row for row in rule.flips if row["guilty"]]
        if not traced:
            continue
        near = float(np.median([abs(row["guilty_distance"]) for row in traced]))
        any_lock = float(np.median([row["median_lock"] for row in traced]))
        ghosts = sum(row["guilty_class"] == "0" for row in traced) / len(traced)
        sentences.append(
            f"{name}: of {len(traced)} traced flips {sum(row['alone'] for row in traced) / len(traced):.0%} go back to "
            f"a single lock; the worst lock is {near:g} positions away (median), where locks are {any_lock:g} away; "
            f"{ghosts:.0%} of the worst are ghosts."
        )
    return sentences


def _free(row: Row) -> str:
    control = ""
    if row["control_agreement"] is not None:
        control = (
            f", and {row['control_agreement']:.1%} if the locks are taken away after the first difference: what then "
            "differs is how far decoding itself carries a single decision"
        )
    return (
        f"{row['rule']}: left to themselves {row['prompts_that_part']} of {row['num_prompts']} runs part, at step "
        f"{row['first_difference']:g} (median); {row['agreement']:.1%} of all tokens are those of no lock{control}."
    )


def _cascade(record: TwinRecord) -> list[str]:
    sentences = []
    for rule in record.rules:
        # What is unmasked in the step of the first difference differs by definition.
        bins = {
            key.start: sums
            for key, sums in record.growth.items()
            if key.rule == rule and key.run == "locked" and key.start > 0
            if sums.number >= MIN_TOKENS and len(sums.numbers) >= MIN_SEQUENCES
        }
        if len(bins) < 2:
            continue
        first, last = min(bins), max(bins)
        change = difference_of(bins[last], bins[first])
        assert change is not None, "both bins have enough sequences"
        verdict = "spreads" if change.low > 0 else "fades" if change.high < 0 else "neither surely spreads nor fades"
        early, late = (bins[start].amount / bins[start].number for start in (first, last))
        sentences.append(
            f"{rule}: a difference {verdict}: {early:.0%} of the tokens unmasked {_steps(first)} after it differ, "
            f"{late:.0%} of those {_steps(last)} after it (change {wording.points(change.value)} points, 95 % "
            f"{wording.points(change.low)} to {wording.points(change.high)})."
        )
    return sentences


def _steps(start: int) -> str:
    return f"{bin_name(start)} step{'' if start == 1 else 's'}"


def bin_name(start: int) -> str:
    """Both ends of the bin of steps that begins there."""
    end = next((edge - 1 for edge in BINS if edge > start), None)
    return f"{start} or more" if end is None else str(start) if end == start else f"{start} to {end}"
