"""Calibrating a model: decode prompts without locks, choose a threshold on some, look at it on the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from surelock.errors import ParameterError
from surelock.llm import LLM
from surelock.measure.calibration import (
    HELD_OUT_SHARE,
    MAX_STARTS,
    CalibrationReport,
    Trials,
    calibrate,
    clopper_pearson_upper,
    min_trials,
    split_runs,
    threshold_grid,
    trials,
)
from surelock.measure.instrumented import CanvasIds, InstrumentedDecoder
from surelock.measure.statistics import weighted_mean
from surelock.measure.trace import trace_all
from surelock.params import LockParams, SamplingParams
from surelock.results.calibration_file import FORMAT, fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """What is to be bounded.

    Args:
        delta: total variation from which a locked position has moved.
        alpha: highest allowed share of locked positions that have. `confidence`: with which that is promised.
        generated_only: leave prompt positions out of the risk; they are locked all the same.

    Raises:
        ParameterError: a value is out of its limits.
    """

    delta: float = 0.05
    alpha: float = 0.05
    confidence: float = 0.95
    generated_only: bool = False

    def __post_init__(self) -> None:
        for name in ("delta", "alpha", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ParameterError(f"{name} is {getattr(self, name):g}; it must be above 0 and below 1")

    @property
    def min_prompts(self) -> int:
        """Prompts of which those not held out are enough to bound any risk by alpha."""
        needed = total = min_trials(self.alpha, 1 - (1 - self.confidence) / MAX_STARTS)
        while total - round(total * HELD_OUT_SHARE) < needed:
            total += 1
        return total


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """What was found for a model.

    Attributes:
        report: the choice.
        locked_run: the held-out prompts decoded with the rule found: sequences that lock anything; rate (of positions
            whose posterior, still computed, ends more than delta from the locked one) with a 95 % bootstrap interval
            over sequences (rate_low, rate_high); violations, of one drawn position of each of these sequences, and
            upper_bound, what they bound the risk of a locked run by at `confidence`; locked_share, active_ratio. None
            if no threshold passed.
    """

    report: CalibrationReport
    locked_run: dict[str, Any] | None


def run_calibration(
    llm: LLM,
    canvases: Sequence[CanvasIds],
    params: SamplingParams,
    rule: LockParams,
    risk: Risk,
    *,
    progress: Callable[[str], None] = lambda message: None,
) -> CalibrationResult:
    """Calibrate a rule.

    Args:
        canvases: prompt parts; a third of them is held out.
        params: how they are decoded; its lock is not used. Its seed, or 0, also splits them, and with a prompt's number
            added it is that prompt's.
        rule: its threshold is not used. Its refresh changes the locked run alone, never the choice.

    Raises:
        ParameterError: there are too few prompts for the risk.
    """
    if len(canvases) < risk.min_prompts:
        raise ParameterError(
            f"there are {len(canvases)} prompts; alpha {risk.alpha:g} with confidence {risk.confidence:g} takes "
            f"{risk.min_prompts}, a third of them held out: use more (--num-prompts), or a larger alpha"
        )
    decoder, seed = InstrumentedDecoder(llm.transformer), params.seed or 0
    choice: dict[str, Any] = {"delta": risk.delta, "seed": seed, "generated_only": risk.generated_only}
    free = replace(params, lock=None, seed=seed)
    runs = trace_all(
        decoder, canvases, free, progress=lambda done, total: progress(f"decoded {done} of {total} prompts")
    )
    progress("choosing a threshold")
    calibration, held_out = split_runs(runs, seed=seed)
    grid = threshold_grid(is_half_precision=llm.dtype != torch.float32)
    report = calibrate(calibration, held_out, rule, alpha=risk.alpha, confidence=risk.confidence, grid=grid, **choice)
    if report.kl_threshold is None:
        return CalibrationResult(report, None)
    progress("decoding the held-out prompts with locks")
    numbers = sorted(int(number) for run in held_out for number in run.canvases)
    locking = replace(free, lock=replace(rule, kl_threshold=report.kl_threshold))
    locked = trace_all(decoder, [canvases[number] for number in numbers], locking, canvas_numbers=numbers)
    seen = trials(locked, [run.locked_at for run in locked], **choice)
    return CalibrationResult(report, _locked_run(seen, risk.confidence))


def _locked_run(seen: Trials, confidence: float) -> dict[str, Any]:
    """See `CalibrationResult`."""
    there, drawn = seen.locked > 0, int(seen.drawn.sum())
    shares = (seen.violations[there] / seen.locked[there]).tolist()
    rate = weighted_mean(shares, [1.0] * len(shares), seed=0) if shares else None
    return {
        "sequences": seen.num_trials,
        "rate": None if rate is None else rate.value,
        "rate_low": None if rate is None else rate.low,
        "rate_high": None if rate is None else rate.high,
        "violations": drawn,
        "upper_bound": clopper_pearson_upper(drawn, seen.num_trials, confidence),
        "locked_share": float(seen.locked.sum() / max(seen.positions.sum(), 1)),
        "active_ratio": float(seen.active.mean()),
    }


def calibration_facts(
    llm: LLM, params: SamplingParams, risk: Risk, report: CalibrationReport, prompts: str
) -> dict[str, Any]:
    """What a threshold depends on, as plain values: `risk` and `decoding`."""
    return {
        "risk": {
            "delta": risk.delta,
            "alpha": risk.alpha,
            "confidence": risk.confidence,
            "positions": "generated" if risk.generated_only else "all",
            "prompts": prompts,
            "calibration_sequences": report.num_calibration,
            "held_out_sequences": report.num_held_out,
        },
        "decoding": {
            "max_tokens": params.max_tokens,
            "steps": params.steps,
            "block_length": params.block_length,
            "temperature": params.temperature,
            "cfg_scale": params.cfg_scale,
            "unmasking": params.unmasking,
            "seed": params.seed or 0,
            "dtype": str(llm.dtype).removeprefix("torch."),
        },
    }


def calibration_content(llm: LLM, rule: LockParams, result: CalibrationResult, facts: dict[str, Any]) -> dict[str, Any]:
    """What is stored for a model whose threshold was found; facts are the command, environment, risk and decoding."""
    chosen = result.report.chosen
    assert chosen is not None
    return {
        "format": FORMAT,
        "lock": asdict(replace(rule, kl_threshold=chosen["kl_threshold"])),
        "model": llm.name,
        "fingerprint": fingerprint(llm.folder),
        "found": {name: value for name, value in chosen.items() if name not in ("kl_threshold", "passed")}
        | {"locked_run": result.locked_run},
        **{name: facts[name] for name in ("risk", "decoding", "command", "environment")},
    }
