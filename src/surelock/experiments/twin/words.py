"""What was found in the twins, in sentences made from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from surelock.eval.twin.free import BINS
from surelock.eval.twin.records import Row, TwinRecord
from surelock.experiments.twin.summary import correlation_rows, effect_rows, group_rows, rule_rows

# Fewer tokens make no share.
MIN_TOKENS: Final = 10


def findings(record: TwinRecord) -> list[str]:
    """One paragraph's sentences."""
    rules = rule_rows(record)
    sentences = [_divergence(row) for row in rules]
    sentences += _ghosts(group_rows(record), effect_rows(record))
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


def _ghosts(groups: Sequence[Row], effects: Sequence[Row]) -> list[str]:
    sentences = []
    for rule in dict.fromkeys(row["rule"] for row in groups):
        ages = {row["group"]: row for row in groups if row["rule"] == rule and row["axis"] == "age"}
        others = [row for name, row in ages.items() if name not in ("0", "prompt")]
        if "0" in ages and others:
            ghost = ages["0"]["kl_per_lock"]
            rest = sum(row["kl_per_lock"] * row["locks_mean"] * row["canvas_steps"] for row in others) / sum(
                row["locks_mean"] * row["canvas_steps"] for row in others
            )
            ratio = f", {ghost / rest:.2g} times as much" if rest > 0 else ""
            sentences.append(
                f"{rule}: ghosts frozen alone cost the masked rows {ghost:.2g} nats per lock, other generated locks "
                f"{rest:.2g}{ratio}."
            )
        harm = {row["lock_class"]: row for row in effects if row["rule"] == rule}
        if "0" in harm:
            sentences.append(
                f"{rule}: setting a single ghost free takes {harm['0']['harm_mean']:.2g} nats off its step on average, "
                f"and helps in {harm['0']['harmful_share']:.0%} of the cases."
            )
    return sentences


def _changes(record: TwinRecord) -> list[str]:
    if 1 not in record.changes or 2 not in record.changes:
        return []
    first, second = (float(np.median(np.concatenate(record.changes[age], axis=2)[:, 1])) for age in (1, 2))
    return [
        f"Without locks a position's values change by {first:.2f} of their length in the step after it is unmasked and "
        f"by {second:.3f} in the next (median over layers), so what a ghost freezes is not what the others would read."
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
                f"{rule}: over {best['locks']} single locks, the harm of a lock goes with the {best['predictor']} of "
                f"layer {best['layer']} (rank correlation {best['spearman']:.2f}), against {kl['spearman']:.2f} with "
                "the KL it locked at."
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
            f", and {row['control_agreement']:.1%} if the locks are taken away after the first difference: decoding "
            "itself carries that much of it on"
        )
    return (
        f"{row['rule']}: left to themselves {row['prompts_that_part']} of {row['num_prompts']} runs part, at step "
        f"{row['first_difference']:g} (median); {row['agreement']:.1%} of all tokens are those of no lock{control}."
    )


def _cascade(record: TwinRecord) -> list[str]:
    sentences = []
    for rule in record.rules:
        shares = {
            key.start: differ / total
            for key, (differ, total) in sorted(record.growth.items())
            if key.rule == rule and key.run == "locked" and total >= MIN_TOKENS
        }
        if len(shares) < 2:
            continue
        first, last = min(shares), max(shares)
        verdict = "cascades" if shares[last] > shares[first] else "does not grow"
        sentences.append(
            f"{rule}: a difference {verdict}: {shares[first]:.0%} of the tokens unmasked {bin_name(first)} steps "
            f"after it differ, {shares[last]:.0%} of those {bin_name(last)} steps after it."
        )
    return sentences


def bin_name(start: int) -> str:
    """Both ends of the bin of steps that begins there."""
    end = next((edge - 1 for edge in BINS if edge > start), None)
    return f"{start} or more" if end is None else str(start) if end == start else f"{start} to {end}"
