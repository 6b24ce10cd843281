"""Posteriors of the rows that need one: to choose a token, to test for locking, or both in one product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surelock.decoding.proposal import RowParams, propose, row_keys
from surelock.ops.head_logits import Head, head_logits_float32
from surelock.ops.step_kl import StepKL, kl_from_logits, step_kl
from surelock.ops.token_stats import token_stats

# Rows up to which a product with the head takes about as long as reading the head, so that two would take twice that.
JOINT_ROWS = 512


@dataclass(frozen=True, slots=True)
class HiddenPair:
    """Hidden rows [m, d] of this step and of the one before."""

    hidden: Tensor
    previous: Tensor


def posteriors(
    proposed: Tensor, rows: RowParams, tested: HiddenPair, head: Head, mask_token_id: int, *, may_sample: bool
) -> tuple[Tensor, Tensor, StepKL]:
    """Token int64 [n] and confidence float32 [n] of hidden rows `proposed` [n, d] (see `propose`), and KL of m rows."""
    num_rows = len(proposed) + 2 * len(tested.hidden)
    fits = len(proposed) and len(tested.hidden) and num_rows <= JOINT_ROWS
    if proposed.is_cuda and fits and head.scale == 1.0:
        return joint_posteriors(proposed, rows, tested, head, mask_token_id, may_sample=may_sample)
    token, confidence = propose(proposed, head, rows, mask_token_id, may_sample=may_sample)
    return token, confidence, step_kl(tested.hidden, tested.previous, head)


def joint_posteriors(
    proposed: Tensor, rows: RowParams, tested: HiddenPair, head: Head, mask_token_id: int, *, may_sample: bool
) -> tuple[Tensor, Tensor, StepKL]:
    """The same by one product with a head that does not scale its logits."""
    # [n + 2 m, V]
    logits = head_logits_float32(torch.cat((proposed, tested.hidden, tested.previous)), head)
    stats = token_stats(
        logits[: len(proposed)],
        mask_token_id=mask_token_id,
        allow_mask=rows.allow_mask,
        temperature=rows.temperature,
        key=row_keys(rows, may_sample=may_sample),
        may_sample=may_sample,
        rounding=proposed.dtype,
        choice_only=True,
    )
    return stats.token, stats.probability, kl_from_logits(*logits[len(proposed) :].chunk(2))
