"""Is it exact here, on this machine and model? Locking off against the oracle, locking on against locking off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from surelock.decoding.oracle import oracle_decode
from surelock.engine.noise_floor import noise_floor as null_pairs
from surelock.errors import NonFiniteLogitsError
from surelock.llm import LLM
from surelock.output import RequestOutput, StepUpdate
from surelock.params import SamplingParams
from surelock.text.prompts import CanvasIds, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was found.

    Attributes:
        num_prompts, num_tokens: prompts, and masked positions decoded in them.
        dtype: of the weights: "float32", "bfloat16" or "float16".
        exact: with locking off every token equals the oracle's (`decoding/oracle.py`). Promised in float32 only: in
            half precision two correct programs round differently, and a close decision may fall either way.
        first_mismatch: (prompt, canvas position) of the first token that does not, or None.
        lock_agreement: share of decoded tokens that are the same with and without locking.
        identical_outputs: prompts whose whole canvas is the same with and without locking.
        first_difference: (prompt, step) where the canvases first differ, over the prompts the earliest step; or None.
        max_deviation, mean_deviation: of a committed token's probability in the locked run against a plain forward of
            the same canvas, which is what the frozen keys and values cost; 0 if nothing was committed.
        active_ratio: mean over the prompts of the locked run's active rows over all rows.
    """

    num_prompts: int
    num_tokens: int
    dtype: str
    exact: bool
    first_mismatch: tuple[int, int] | None
    lock_agreement: float
    identical_outputs: int
    first_difference: tuple[int, int] | None
    max_deviation: float
    mean_deviation: float
    active_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def verify(
    llm: LLM,
    prompts: Prompt | Sequence[Prompt],
    params: SamplingParams | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Decode every prompt by the oracle, without locks and with `params.lock`; float32 is where equality is promised.

    Args:
        llm: the model.
        prompts: as for `LLM.generate`. All are checked before anything runs.
        params: how to decode; its lock is what is compared with no lock.
        progress: called with (prompts done, prompts).

    Raises: as `LLM.generate`; the `outputs` of NonFiniteLogitsError is empty.
    """
    encoded = llm.encode(prompts, params)
    params = params or SamplingParams()
    if params.seed is None:
        params = replace(params, seed=0)
    checks = []
    for index, prompt in enumerate(encoded):
        checks.append(_check(llm, prompt, index, params))
        if progress is not None:
            progress(index + 1, len(encoded))
    return _report(checks, llm.dtype)


def noise_floor(llm: LLM, prompts: Prompt | Sequence[Prompt], params: SamplingParams | None = None) -> dict[str, float]:
    """KL in nats of a null pair: the same canvas computed alone and next to others, where the truth is 0.

    {"median", "p99", "max"} over all positions. A `kl_threshold` below it locks on rounding.

    Raises: as `LLM.encode`.
    """
    num_generated, mask = (params or SamplingParams()).max_tokens, llm.config.mask_token_id
    canvases = [_start(canvas_ids, num_generated, mask) for canvas_ids in llm.encode(prompts, params)]
    return null_pairs(llm.transformer, canvases)


@dataclass(frozen=True, slots=True)
class _Check:
    num_tokens: int
    mismatch: int | None
    num_equal: int
    differs_at: int | None
    deviations: list[float]
    active_ratio: float


def _start(canvas_ids: CanvasIds, num_generated: int, mask: int) -> list[int]:
    """The whole canvas before the first step."""
    return [mask if token is None else token for token in canvas_ids] + [mask] * num_generated


def _check(llm: LLM, canvas_ids: CanvasIds, index: int, params: SamplingParams) -> _Check:
    mask = llm.config.mask_token_id
    start = _start(canvas_ids, params.max_tokens, mask)
    canvas: Prompt = {"canvas_token_ids": list(canvas_ids)}
    free = replace(params, lock=None)

    unlocked, locked = list(llm.stream(canvas, free)), list(llm.stream(canvas, params))
    decoded = [position for position, token in enumerate(start) if token == mask]
    ours, with_locks = _output(unlocked, index), _output(locked, index)
    deviations = _deviations(llm, start, locked, params.cfg_scale)
    if not all(map(math.isfinite, deviations)):
        raise _non_finite(index)
    oracle = oracle_decode(llm.transformer, canvas_ids, free, mask_token_id=mask, seed=params.seed or 0)
    mismatches = (p for p in range(len(start)) if ours.canvas_token_ids[p] != oracle.tokens[p])
    differences = (a.step for a, b in zip(unlocked, locked, strict=True) if a.canvas_token_ids != b.canvas_token_ids)
    return _Check(
        num_tokens=len(decoded),
        mismatch=next(mismatches, None),
        num_equal=sum(ours.canvas_token_ids[p] == with_locks.canvas_token_ids[p] for p in decoded),
        differs_at=next(differences, None),
        deviations=deviations,
        active_ratio=with_locks.stats.active_ratio,
    )


def _output(updates: Sequence[StepUpdate], index: int) -> RequestOutput:
    output = updates[-1].output
    assert output is not None
    if output.finish_reason == "error":
        raise _non_finite(index)
    return output


def _non_finite(index: int) -> NonFiniteLogitsError:
    return NonFiniteLogitsError(
        f"the model's logits were NaN or infinite for prompt {index}: check the weights or use dtype float32"
    )


def _deviations(llm: LLM, start: list[int], updates: Sequence[StepUpdate], cfg_scale: float) -> list[float]:
    """|probability the locked run saw - probability of a plain forward of the same canvas| of each committed token."""
    mask = llm.config.mask_token_id
    given = torch.tensor([token != mask for token in start])
    canvas, found = start, []
    for update in updates:
        after = [mask if i is None else i for i in update.canvas_token_ids]
        if update.committed:
            plain = _plain(llm, canvas, given, cfg_scale)[update.committed].log_softmax(1)
            for row, position, confidence in zip(plain, update.committed, update.confidence, strict=True):
                found.append(abs(float(row[after[position]].exp()) - confidence))
        canvas = after
    return found


def _plain(llm: LLM, canvas: list[int], given: Tensor, cfg_scale: float) -> Tensor:
    logits = llm.logits([canvas])
    if cfg_scale == 0:
        return logits
    mask = llm.config.mask_token_id
    blind = [mask if is_given else token for token, is_given in zip(canvas, given.tolist(), strict=True)]
    unconditional = llm.logits([blind])
    return unconditional + (cfg_scale + 1) * (logits - unconditional)


def _report(checks: Sequence[_Check], dtype: torch.dtype) -> VerifyReport:
    num_tokens = sum(check.num_tokens for check in checks)
    mismatches = [(index, check.mismatch) for index, check in enumerate(checks) if check.mismatch is not None]
    differences = [(check.differs_at, index) for index, check in enumerate(checks) if check.differs_at is not None]
    deviations = [deviation for check in checks for deviation in check.deviations]
    return VerifyReport(
        num_prompts=len(checks),
        num_tokens=num_tokens,
        dtype=str(dtype).removeprefix("torch."),
        exact=not mismatches,
        first_mismatch=mismatches[0] if mismatches else None,
        lock_agreement=sum(check.num_equal for check in checks) / num_tokens,
        identical_outputs=sum(check.num_equal == check.num_tokens for check in checks),
        first_difference=_flipped(min(differences)) if differences else None,
        max_deviation=max(deviations, default=0.0),
        mean_deviation=sum(deviations) / max(len(deviations), 1),
        active_ratio=sum(check.active_ratio for check in checks) / len(checks),
    )


def _flipped(pair: tuple[int, int]) -> tuple[int, int]:
    return pair[1], pair[0]
