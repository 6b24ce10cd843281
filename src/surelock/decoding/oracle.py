"""The oracle: SureLock's Algorithm 1 (arXiv 2602.06412) for one sequence, literally, to be checked against the paper by
eye. Comments carry its line numbers; the three departures are marked DECISION and argued in docs/algorithm.md. The
engine must give the same tokens in float32. What both share: the schedule of commits, the random numbers, and the
layers' projections and feed-forward; golden data of the reference code covers those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from surelock.decoding.noise import Purpose, gumbel, uniform
from surelock.decoding.schedule import plan, quota
from surelock.ops.head_logits import Head, head_logits
from surelock.params import LockParams, SamplingParams


class OracleModel(Protocol):
    """The pieces of a transformer the oracle puts together itself: `models.Transformer` has them."""

    layers: Any

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def rotation(self, positions: Tensor) -> Any:
        """Rotary embedding of rows at positions [R], passed to the layers."""
        ...

    @property
    def lm_head(self) -> Head:
        """Weight, bias and scale of the head."""
        ...

    @property
    def norm(self) -> Callable[[Tensor], Tensor]:
        """The final norm."""
        ...

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids [R] -> [R, d]."""
        ...


@dataclass
class OracleResult:
    """What the oracle found.

    Attributes:
        tokens: the final canvas, prompt first.
        locked_at: for each position the 1-based step that locked it, or None.
        active_rows: positions computed in each step.
        margin: how near the closest decision was to falling otherwise (relative); comparisons against another
            implementation are only meaningful above its rounding.
    """

    tokens: list[int]
    locked_at: list[int | None]
    active_rows: list[int] = field(default_factory=list)
    margin: float = math.inf


@dataclass
class _Stream:
    """One sequence as the model sees it, with line 24's cache of the locked positions' keys and values."""

    tokens: Tensor  # [N]
    cache: list[tuple[Tensor, Tensor] | None]  # per layer: K and V [N, heads, head_dim], right where locked


@torch.inference_mode()
def oracle_decode(
    model: OracleModel,
    canvas_ids: Sequence[int | None],
    params: SamplingParams,
    *,
    mask_token_id: int,
    seed: int = 0,
    share: float = 1.0,
    max_quota: int = 4,
) -> OracleResult:
    """Decode one canvas: canvas_ids is the prompt part (None = masked), params.max_tokens masks are appended.

    `share` and `max_quota` are those of `selection.ActiveShare`; at 1 every active row is computed, as in the paper.
    """
    lock_params = params.lock or LockParams(kl_threshold=-1.0)
    prompt = [mask_token_id if i is None else i for i in canvas_ids]
    tokens = torch.tensor(prompt + [mask_token_id] * params.max_tokens, device=model.device)
    given = tokens != mask_token_id
    masked = ~given
    num_positions = len(tokens)
    schedule = plan(params, len(prompt), int(masked[: len(prompt)].sum()))

    # Algorithm 1, state: lock = 0, no cache, no previous posteriors.
    locked = torch.zeros_like(given)
    age = torch.zeros_like(tokens)
    computed_at = torch.full_like(tokens, -1)
    previous: Tensor | None = None
    streams = [_Stream(tokens.clone(), [None] * len(model.layers))]
    if params.cfg_scale > 0:
        streams.append(_Stream(torch.where(given, mask_token_id, tokens), [None] * len(model.layers)))
    result = OracleResult([], [None] * num_positions)

    num_block_masks = 0
    for t in range(1, schedule.num_steps + 1):
        block, index = schedule.locate(t)
        if index == 0:
            num_block_masks = int(masked[block.counted_from : block.end].sum())
        k = quota(num_block_masks, block.num_steps, index)

        active = ~locked  # 6
        if share < 1 and t > 1:
            waiting_since = torch.where(masked | (age > 0), computed_at, -1)
            due_masks = _turns(active & masked, waiting_since, share, max_quota)
            active = due_masks | _turns(active & ~masked, waiting_since, share, 0)
        # Beyond the paper: a refresh computes the locked positions once more; they stay locked.
        rows = active | locked if lock_params.refresh and t % lock_params.refresh == 0 else active
        computed_at[rows] = t
        result.active_rows.append(int(rows.sum()))
        fresh = [_forward(model, stream, rows) for stream in streams]  # 7-14
        logits = torch.full((num_positions, model.lm_head.vocab_size), torch.nan, device=model.device)
        logits[rows] = _guided([head_logits(hidden, model.lm_head) for hidden, _ in fresh], params.cfg_scale)  # 15
        age += rows & ~masked

        # 16: the official LLaDA sampler; DECISION: MASK itself is never proposed unless allow_mask.
        candidates = [i for i in range(block.end) if active[i] and masked[i]] if k else []
        proposals = {i: _propose(logits[i], params, mask_token_id, seed, t, i) for i in candidates}
        order = sorted(candidates, key=lambda i: (-proposals[i].rank, i))
        for i in order[:k]:
            if proposals[i].token != mask_token_id:
                masked[i] = False
                for stream in streams:
                    stream.tokens[i] = proposals[i].token
        _note_margin(result, [proposals[i] for i in order], k)

        # 17-19: D is infinite while there is no posterior of the preceding step.
        if t < schedule.num_steps and not lock_params.is_never:
            # 20: DECISION: a candidate has been visible for min_visible_steps forwards.
            eligible = [i for i in range(num_positions) if active[i] and not masked[i]]
            eligible = [i for i in eligible if age[i] >= lock_params.min_visible_steps]
            chosen = _locking(logits, previous, eligible, active, age, lock_params, result)  # 21-22
            if lock_params.prompt_lock_step is not None and t >= lock_params.prompt_lock_step:
                chosen |= {i for i in eligible if given[i]}
            for i in chosen:  # 23
                locked[i] = True
                result.locked_at[i] = t
        for stream, (_, kv) in zip(streams, fresh, strict=True):
            # 24: keep what this step computed; only locked positions will be read. DECISION: line 25's frozen block
            # input is never read again, so there is none.
            stream.cache = kv
        previous = logits
    result.tokens = streams[0].tokens.tolist()
    return result


def _turns(positions: Tensor, waiting_since: Tensor, share: float, least: int) -> Tensor:
    """That share of the positions, those that wait longest first, but no fewer than `least` of them."""
    waiting = sorted(positions.nonzero().squeeze(1).tolist(), key=lambda i: (int(waiting_since[i]), i))
    chosen = torch.zeros_like(positions)
    chosen[waiting[: max(math.ceil(len(waiting) * share), least)]] = True
    return chosen


def _forward(model: OracleModel, stream: _Stream, active: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor] | None]]:
    """Lines 7 to 14: hidden rows [A, d] of the active positions, and every position's keys and values per layer."""
    rotation = model.rotation(active.nonzero().squeeze(1))
    x = model.embed(stream.tokens[active])  # 7
    cache: list[tuple[Tensor, Tensor] | None] = []
    for layer, kept in zip(model.layers, stream.cache, strict=True):  # 8
        q, k, v = layer.project(x, rotation)  # 9: for the active rows only
        # 10-11: fresh keys and values where active, cached ones where locked.
        k_all = k.new_full((len(active), *k.shape[1:]), torch.nan) if kept is None else kept[0].clone()
        v_all = v.new_full((len(active), *v.shape[1:]), torch.nan) if kept is None else kept[1].clone()
        k_all[active], v_all[active] = k, v
        groups = q.shape[1] // k.shape[1]
        keys, values = k_all.repeat_interleave(groups, 1), v_all.repeat_interleave(groups, 1)
        weights = (torch.einsum("ahd,nhd->han", q, keys) / math.sqrt(q.shape[2])).softmax(-1)  # 12
        x = layer.finish(x, torch.einsum("han,nhd->ahd", weights, values))  # 12-13
        cache.append((k_all, v_all))
    return model.norm(x), cache


def _guided(logits: list[Tensor], scale: float) -> Tensor:
    if len(logits) == 1:
        return logits[0]
    conditional, unconditional = logits
    return unconditional + (scale + 1) * (conditional - unconditional)


@dataclass(frozen=True)
class _Candidate:
    token: int
    rank: float  # what the policy sorts by
    lead: float  # of the chosen token over the next best


def _propose(
    logits: Tensor, params: SamplingParams, mask_token_id: int, seed: int, step: int, position: int
) -> _Candidate:
    key = torch.tensor([[seed], [step], [position]], device=logits.device)
    scores = logits.clone()
    if not params.allow_mask:
        scores[mask_token_id] = -torch.inf
    if params.temperature > 0:
        scores = scores + params.temperature * gumbel(key[0], key[1], key[2], len(logits))[0]
    best = scores.topk(2).values
    token = int(scores.argmax())
    rank = float(logits.softmax(0)[token])
    if params.unmasking == "random":
        rank = float(uniform(key[0], key[1], key[2], 1, Purpose.ORDER))
    return _Candidate(token, rank, float(best[0] - best[1]))


def _locking(
    logits: Tensor,
    previous: Tensor | None,
    eligible: list[int],
    active: Tensor,
    age: Tensor,
    params: LockParams,
    result: OracleResult,
) -> set[int]:
    """Lines 17 to 22: the candidates whose posterior stopped moving and, with the gate on, that are sure enough."""
    if previous is None:
        return set()
    # Nothing to compare with where the step before left a row out.
    comparable = ~previous.isnan().any(1)
    eligible = [i for i in eligible if comparable[i]]
    divergence = {i: _kl(logits[i], previous[i]) for i in eligible}  # 19
    stable = {i for i in eligible if divergence[i] <= params.kl_threshold}
    if params.kl_both_visible:
        stable = {i for i in stable if age[i] >= 2}
    for value in divergence.values():
        result.margin = min(result.margin, abs(value - params.kl_threshold) / max(params.kl_threshold, 1e-5))
    if params.confidence_percentile is None:
        return stable
    everywhere = (active & comparable).nonzero().squeeze(1).tolist()
    population = {"candidates": eligible, "active": everywhere, "kl_passing": sorted(stable)}[params.gate_scope]
    if not population:
        return set()
    uncertainty = {i: _uncertainty(logits[i]) for i in set(population) | stable}  # 18
    theta = np.percentile([uncertainty[i] for i in population], params.confidence_percentile)  # 21
    for i in stable:
        gap = abs(uncertainty[i] - theta) / max(theta, 1e-30)
        # The percentile often is one of the values themselves, in any implementation.
        if gap > 1e-12:
            result.margin = min(result.margin, gap)
    return {i for i in stable if uncertainty[i] <= theta}  # 22


def _kl(now: Tensor, before: Tensor) -> float:
    log_p, log_q = now.double().log_softmax(0), before.double().log_softmax(0)
    return max(0.0, float((log_p.exp() * (log_p - log_q)).sum()))


def _uncertainty(logits: Tensor) -> float:
    """1 - max p without the subtraction, which would round to 0 (docs/algorithm.md, "Noise")."""
    log_p = logits.double().log_softmax(0)
    return float(torch.cat((log_p[: log_p.argmax()], log_p[log_p.argmax() + 1 :])).exp().sum())


def _note_margin(result: OracleResult, ranked: list[_Candidate], k: int) -> None:
    for chosen in ranked[:k]:
        result.margin = min(result.margin, chosen.lead)
    if 0 < k < len(ranked):
        result.margin = min(result.margin, (ranked[k - 1].rank - ranked[k].rank) / max(ranked[k - 1].rank, 1e-30))
