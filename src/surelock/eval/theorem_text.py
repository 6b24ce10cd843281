"""What was found about Theorem 1, in words and tables, from the numbers alone."""

from __future__ import annotations

import math
from typing import Any, Final

from surelock.eval.result_files import markdown_table, shown_cell
from surelock.eval.theorem import LIPSCHITZ, TheoremReport

_ROWS: Final = (
    ("locked_share", "positions the rule would lock"),
    ("rows", "positions measured"),
    ("rho_median", "rho, median"),
    ("rho_p95", "rho, 95 %"),
    ("rho_above_1", "positions whose fitted rho is above 1"),
    ("a2_holds", "positions where A2 holds with some rho <= 1"),
    ("rising_steps", "steps after the lock in which D rises"),
    ("tail_median", "tail sum S, median"),
    ("tail_p95", "tail sum S, 95 %"),
    ("tail_if_geometric", "1 / (1 - sqrt rho) of the median rho"),
    ("lagged_l_median", "L against the step before (A3), median"),
    ("lagged_l_p95", "L against the step before (A3), 95 %"),
    ("unlagged_l_p95", "L against the same step, 95 %"),
    ("c_tail", "C_tail"),
    ("implied_delta", "deviation the theorem allows at this threshold, nats"),
    ("log_gap_median", "largest change of a log probability, median, nats"),
    ("log_gap_p95", "largest change of a log probability, 95 %, nats"),
    ("token_gap_p95", "change of the token's own log probability, 95 %, nats"),
    ("c_tail_coverage", "positions within the theorem's bound"),
    ("c_tail_slack", "bound over what happened, median"),
    ("implied_epsilon", "threshold the theorem implies for delta"),
    ("direct_epsilon", "threshold read off the measured deviations for delta"),
    ("tv_p95", "total variation from lock to end, 95 %"),
    ("tv_above_delta", "positions with total variation above delta"),
    ("flipped", "positions whose likeliest token changed after the lock"),
    ("tv_sum_coverage", "positions within the telescoped total variation"),
    ("tv_sum_slack", "telescoped over actual total variation, median"),
    ("tv_tail_coverage", "positions within the telescoped bound with S at 95 %"),
    ("tv_geometric_coverage", "positions within the bound under A2"),
)


def theorem_markdown(report: TheoremReport, facts: dict[str, Any]) -> str:
    """The whole page."""
    rules = report.rules
    table = [
        {"quantity": label} | {f"{rule['kl_threshold']:.3g} {rule['positions']}": rule[name] for rule in rules}
        for name, label in _ROWS
    ]
    parts = [
        "# Theorem 1, measured",
        "\n".join(f"- {name}: {_fact(value)}" for name, value in facts.items() if value is not None),
        findings(report),
        "## Constants and bounds by KL threshold",
        markdown_table(table),
        "## L by uncertainty at the lock",
        markdown_table(report.by_uncertainty) if report.by_uncertainty else "Nothing locked.\n",
        "## KL by age since unmasking, generated positions",
        markdown_table(_thinned(report.by_age)) if report.by_age else "Nothing was generated.\n",
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def findings(report: TheoremReport) -> str:
    """One paragraph; every number in it is of the report."""
    rule, facts = report.rules[0], report.facts
    if not rule["rows"]:
        return "No position would have been locked, so there is nothing to hold the theorem against."
    delta = facts["delta"]
    sentences = [
        f"At a KL threshold of {rule['kl_threshold']:.3g} the rule would lock {rule['locked_share']:.1%} of the "
        "positions.",
        _a1(report),
        f"A2 per position: the fitted rho has median {_n(rule['rho_median'])} and 95 % quantile {_n(rule['rho_p95'])}, "
        f"but D rises in {rule['rising_steps']:.0%} of the steps after a lock, and only {rule['a2_holds']:.1%} of the "
        f"positions fall in every step. The mean over active positions, which the paper plots, has rho "
        f"{_n(report.averaged['rho'])} and rises in {report.averaged['rising']:.0%} of the steps.",
        f"A3: the least L has median {_n(rule['lagged_l_median'])} and 95 % quantile {_n(rule['lagged_l_p95'])} "
        f"against the step before, {_n(rule['unlagged_l_p95'])} against the same step.",
        _a4(report),
        f"So C_tail = {_n(rule['c_tail'])}, and the theorem allows a log probability to change by "
        f"{_n(rule['implied_delta'])} nats at this threshold, where 95 % changed by at most "
        f"{_n(rule['log_gap_p95'])}: {rule['c_tail_coverage']:.1%} of the positions are within its bound, which is "
        f"{_n(rule['c_tail_slack'])} times what happened (median).",
        _implied(report),
        f"Total variation from lock to end is at most {_n(rule['tv_p95'])} for 95 % of the positions and above "
        f"{delta:g} for {rule['tv_above_delta']:.2%}; the telescoped sum, which needs no assumption, covers "
        f"{rule['tv_sum_coverage']:.1%} at {_n(rule['tv_sum_slack'])} times the actual value (median); its form under "
        "A2 "
        + (
            f"with the median rho covers {rule['tv_geometric_coverage']:.1%}."
            if rule["rho_median"] < 1
            else "does not exist, the median rho being at least 1."
        ),
        f"The likeliest token of {rule['flipped']:.2%} of the positions changed after the step that would have locked "
        "them.",
        _by_kind(report),
    ]
    return " ".join(sentences)


def _by_kind(report: TheoremReport) -> str:
    delta = report.facts["delta"]
    found = [
        f"{rule['tv_above_delta']:.2%} of {rule['positions']} positions moved by more than {delta:g} in "
        f"total variation and {rule['flipped']:.2%} changed their likeliest token"
        for rule in report.rules[1:3]
        if rule["rows"]
    ]
    return "; ".join(found) + ". The sampler reads the posterior of none of them again."


def _a1(report: TheoremReport) -> str:
    if report.rewritten:
        return f"A1 fails: {report.rewritten} tokens changed after they were committed."
    return "A1 holds: no committed token changed."


def _a4(report: TheoremReport) -> str:
    found = report.lipschitz
    verdict = "holds" if found["max"] <= LIPSCHITZ + 1e-3 else f"is exceeded in {found['above']:.2%} of the steps"
    seen = f"the largest ratio seen is {_n(found['max'])}, the median {_n(found['median'])}"
    return f"A4 with L_sm = sqrt 2 {verdict}: {seen}."


def _implied(report: TheoremReport) -> str:
    rule, implied = report.rules[0], report.implied
    epsilon, share = implied["epsilon"], implied["locked_share"]
    if math.isnan(epsilon) or not epsilon > 0:
        return "No threshold follows from it."
    less = rule["kl_threshold"] / epsilon
    return (
        f"For a deviation of {report.facts['delta']:g} nats it implies a threshold of {epsilon:.1e}, {less:.1e} times "
        f"smaller, at which {share:.1%} of the positions would lock"
        + (f" ({implied['coverage']:.1%} of them within that deviation)." if share > 0 else ".")
        + (" That is vacuous: it is below what float32 logits resolve." if epsilon < 1e-12 else "")
    )


def _thinned(by_age: list[dict[str, float]]) -> list[dict[str, float]]:
    """Every age while much happens, then every fifth; the CSV file has all."""
    return [row for row in by_age if row["age"] <= 5 or row["age"] % 5 == 0]


def _n(value: float) -> str:
    return "unknown" if math.isnan(value) else shown_cell(float(value))


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_fact(part)}" for name, part in value.items() if part is not None)
    return ", ".join(map(_fact, value)) if isinstance(value, list) else shown_cell(value)
