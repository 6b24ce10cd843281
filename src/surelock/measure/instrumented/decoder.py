"""The instrumented decoder: the engine's own steps, with every position measured, over many canvases at once.

Where the engine saves the work of a locked position, this decoder does it on purpose, and no other row reads it
(`InstrumentedForward`). Everything is decided by `decoding/step.py`, as in the engine; what is measured lies beside it.
Cost is not saved but counted.

    decoder = InstrumentedDecoder(llm.transformer)
    for step in decoder.steps(canvases, SamplingParams(max_tokens=64)):
        ...
    free = decoder.run(canvases, SamplingParams(max_tokens=64, lock=None))
    steps = decoder.steps(canvases, SamplingParams(max_tokens=64), forced=free)  # the same commits, with locks
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from surelock.decoding.canvases import Canvases, Mask, PositionState
from surelock.decoding.locking.kl import KLRule
from surelock.decoding.protocols import LockNumbers, LockView, Proposal, Scores, UnmaskingPolicy
from surelock.decoding.selection import AllActive
from surelock.decoding.step import EXACT, Method, compute, decide, look_ahead
from surelock.decoding.unmasking import POLICIES
from surelock.engine.device_batch import step_kind
from surelock.engine.request import NEVER, Request
from surelock.engine.slot_table import SlotTable
from surelock.errors import NonFiniteLogitsError, ParameterError
from surelock.measure.instrumented.forward import InstrumentedForward
from surelock.measure.instrumented.records import (
    KLState,
    MeasuredState,
    MeasuredStep,
    RunRecord,
    StateRule,
    record,
)
from surelock.measure.posteriors import kl_between, likeliest
from surelock.models.transformer import Transformer
from surelock.params import LockParams, SamplingParams

CanvasIds = Sequence[int | None]

# Logits of a canvas that live at the same time: this step's, the last one's, the caller's, and what comparing makes.
LIVE_LOGITS = 5


@dataclass(frozen=True, slots=True)
class InstrumentedDecoder:
    """Decodes canvases of one length together.

    Attributes:
        model: its own weights are used, on their device and in their type.
        measure_drift: fill in `MeasuredStep.drift`.
        keep_keys_values: fill in `MeasuredStep.kv` and `fresh_kv`.
    """

    model: Transformer
    measure_drift: bool = False
    keep_keys_values: bool = False

    def run(self, canvases: Sequence[CanvasIds], params: SamplingParams, **more: Any) -> RunRecord:
        """What a run decides; arguments as for `steps`."""
        return record(self.steps(canvases, params, **more))

    def steps(
        self,
        canvases: Sequence[CanvasIds],
        params: SamplingParams,
        *,
        seeds: Sequence[int] | int = 0,
        rule: StateRule | None = None,
        forced: RunRecord | None = None,
        refresh: StateRule | None = None,
        unlock: StateRule | None = None,
    ) -> Iterator[MeasuredStep]:
        """Decode, yielding after every step.

        Args:
            canvases: prompt parts of one length and with as many gaps (None = masked); params.max_tokens masks are
                appended to each. `group_canvases` sorts ragged ones.
            params: of all of them. `seed` and `stop` are not used.
            seeds: of each canvas, or one for all.
            rule: locks the positions it returns, of state.candidates only, instead of `params.lock`. It is not asked on
                the last step, after which nothing is read.
            forced: commit what this record committed, in the same steps, whatever the model proposes.
            refresh: before a step, the locked positions to compute anew in it, instead of those that `params.lock`
                names; other rows read their new keys and values from then on. They stay locked and count as active
                rows of that step. It is not asked before the second step.
            unlock: after a step, the locked positions that are active from the next one on. Unless `refresh` computed
                them in this step too, they have no posterior of a preceding step when the next begins, so they cannot
                lock in it by KL.

        Raises:
            ParameterError: the canvases cannot be decoded together, or `forced` is of others.
            NonFiniteLogitsError: the model's output is NaN or infinite.
        """
        lock = NEVER if rule is not None else params.lock
        if lock is not None and (rule is not None or refresh is not None):
            params = replace(params, lock=replace(lock, refresh=None))
        requests = _requests(canvases, params, seeds, forced, self.model.config.max_sequence_length)
        return self._steps(requests, rule, forced, refresh, unlock)

    def batch_size(self, num_positions: int, num_bytes: int | None = None) -> int:
        """Canvases of this length that fit in num_bytes of logits, keys and values; at least 1.

        None: 16 GiB on a CUDA device, 128 MiB elsewhere, where more would only leave the caches.
        """
        config, size = self.model.config, self.model.dtype.itemsize
        if num_bytes is None:
            num_bytes = (16 << 30) if self.model.device.type == "cuda" else (128 << 20)
        # Of keys and values there are the frozen ones and, for drift, the fresh ones of two steps.
        sets = 3 if self.measure_drift or self.keep_keys_values else 1
        row = LIVE_LOGITS * 4 * config.embedding_size + sets * 2 * size * config.kv_size * config.num_layers
        row += 4 * size * (config.hidden_size + config.intermediate_size)
        return max(1, num_bytes // (row * num_positions))

    def _steps(
        self,
        requests: Sequence[Request],
        rule: StateRule | None,
        forced: RunRecord | None,
        refresh: StateRule | None,
        unlock: StateRule | None,
    ) -> Iterator[MeasuredStep]:
        model, params, num_steps = self.model, requests[0].params, requests[0].num_steps
        policies: Mapping[str, UnmaskingPolicy] = POLICIES if forced is None else {params.unmasking: _Forced(forced)}
        method = Method(AllActive(), policies, KLRule(), model.lm_head, model.config.mask_token_id)
        canvas, table = _canvases(requests, model), _table(requests, policies, model.device)
        kind = step_kind(requests)
        inputs = table.inputs(replace(kind, refreshes=kind.refreshes or refresh is not None))
        forward = InstrumentedForward(
            model,
            cfg_scale=params.cfg_scale,
            measure_drift=self.measure_drift,
            keep_keys_values=self.keep_keys_values,
        )
        previous: Tensor | None = None
        state: MeasuredState | None = None
        look_ahead(canvas, inputs, method)
        for t in range(1, num_steps + 1):
            if refresh is not None and state is not None:
                canvas.rows |= refresh(replace(state, step=t)) & canvas.locked
            tokens, masked, locked, rows = canvas.tokens.clone(), canvas.masked, canvas.locked, canvas.rows.clone()
            comparable = ~locked & (canvas.computed_at == t - 1)
            compute(canvas, forward, None)
            result = decide(canvas, inputs, method, EXACT)
            if bool(canvas.failed.any()):
                raise NonFiniteLogitsError(
                    f"the model's logits were NaN or infinite at step {t}: check the weights or use dtype float32", []
                )
            logits = forward.logits
            before = logits if previous is None else previous
            kl, uncertainty = (x.view(tokens.shape) for x in kl_between(logits.flatten(0, 1), before.flatten(0, 1)))
            if previous is None:
                kl = torch.full_like(kl, torch.inf)
            seen: dict[str, Any] = {
                "step": t, "num_steps": num_steps, "tokens": canvas.tokens.clone(), "locked": locked,
                "age": canvas.age.clone(), "uncertainty": uncertainty, "logits": logits, "drift": forward.drift,
            }  # fmt: skip
            newly_locked, unlocked = result.locked, torch.zeros_like(locked)
            if rule is not None or refresh is not None or unlock is not None:
                state = MeasuredState(
                    **seen,
                    masked=canvas.masked,
                    given=canvas.given,
                    locked_at=canvas.locked_at.clone(),
                    candidates=~locked & ~canvas.masked,
                    kl=torch.where(comparable, kl, torch.inf),
                )
                if rule is not None and t < num_steps:
                    newly_locked = rule(state) & state.candidates
                if unlock is not None and t < num_steps:
                    unlocked = unlock(state) & locked
                for where, now, at in ((newly_locked, PositionState.LOCKED, t), (unlocked, PositionState.UNMASKED, 0)):
                    canvas.state.masked_fill_(where, int(now))
                    canvas.locked_at.masked_fill_(where, at)
                look_ahead(canvas, inputs, method)
                state = replace(state, locked=canvas.locked, locked_at=canvas.locked_at.clone())
            yield MeasuredStep(
                **seen,
                hidden=forward.hidden,
                kl=kl,
                argmax=self._likeliest(logits, params.allow_mask),
                inputs=tokens,
                masked=masked,
                committed=result.committed,
                newly_locked=newly_locked,
                refreshed=rows & locked,
                unlocked=unlocked,
                num_active=rows.sum(1),
                kv=forward.kv,
                fresh_kv=forward.fresh_kv,
            )
            previous = logits

    def _likeliest(self, logits: Tensor, allow_mask: bool) -> Tensor:
        """Ids [B, N]; logits are rounded as the official samplers do."""
        rounded = logits.flatten(0, 1).to(self.model.dtype)
        found = rounded.argmax(1) if allow_mask else likeliest(rounded, self.model.config.mask_token_id)
        return found.view(logits.shape[:2])


@dataclass(frozen=True, slots=True)
class _Forced:
    """The unmasking policy that repeats a record's commits."""

    record: RunRecord

    def select(self, proposal: Proposal, candidates: Mask, quota: Tensor) -> Mask:
        """See `UnmaskingPolicy.select`. The step writes the tokens that the proposal holds afterwards."""
        proposal.token.copy_(self.record.tokens)
        return candidates & (self.record.committed_at.to(candidates.device) == proposal.step.unsqueeze(1))


def lock_by_kl(state: KLState, numbers: LockNumbers) -> Mask:
    """Positions [B, N] that the engine's own rule locks in a state of any origin."""
    candidates = state.candidates & (state.age >= numbers.min_visible_steps.unsqueeze(1))
    step = torch.full((len(candidates),), state.step, device=candidates.device)
    view = LockView(candidates, ~state.locked, state.age, state.given, step)
    return KLRule().evaluate(view, numbers, lambda where: Scores(state.kl, state.uncertainty)).locked


def lock_numbers(lock: LockParams, num: int, device: torch.device) -> LockNumbers:
    """What `lock_by_kl` asks for: the same numbers for each of num canvases."""
    requests = [Request(slot, (None,), SamplingParams(max_tokens=0, lock=lock), 0, slot, (0,)) for slot in range(num)]
    return _table(requests, POLICIES, device).inputs(step_kind(requests)).lock


def group_canvases(canvases: Sequence[CanvasIds], batch_size: int | None = None) -> list[list[int]]:
    """Indices of canvases that can be decoded together, the longest first: of one length and with as many gaps.

    batch_size: canvases of one group at most. None: no limit.
    """
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, ids in enumerate(canvases):
        alike[len(ids), sum(token is None for token in ids)].append(index)
    groups = []
    for _, indices in sorted(alike.items(), reverse=True):
        size = batch_size or len(indices)
        groups += [indices[start : start + size] for start in range(0, len(indices), size)]
    return groups


def _requests(
    canvases: Sequence[CanvasIds],
    params: SamplingParams,
    seeds: Sequence[int] | int,
    forced: RunRecord | None,
    limit: int,
) -> list[Request]:
    """One for each canvas, in slots of their order."""
    shapes = {(len(ids), sum(token is None for token in ids)) for ids in canvases}
    if len(shapes) != 1:
        raise ParameterError(
            f"canvases are of {len(shapes)} kinds; one length and one number of gaps are decoded together: sort them "
            "with group_canvases"
        )
    num_positions = len(canvases[0]) + params.max_tokens
    if not 0 < num_positions <= limit:
        raise ParameterError(f"the canvases have {num_positions} positions; the model's limit is {limit}, the least 1")
    each = [seeds] * len(canvases) if isinstance(seeds, int) else list(seeds)
    if len(each) != len(canvases):
        raise ParameterError(f"seeds has {len(each)} entries for {len(canvases)} canvases; pass one for each")
    if forced is not None and tuple(forced.tokens.shape) != (len(canvases), num_positions):
        raise ParameterError(
            f"forced is the record of {tuple(forced.tokens.shape)} positions; these canvases are "
            f"{(len(canvases), num_positions)}"
        )
    return [
        Request(slot, tuple(ids), params, seed, slot, (0,))
        for slot, (ids, seed) in enumerate(zip(canvases, each, strict=True))
    ]


def _canvases(requests: Sequence[Request], model: Transformer) -> Canvases:
    """Those of requests that have their slots."""
    num, length, mask_id = len(requests), requests[0].num_positions, model.config.mask_token_id
    canvas = Canvases(model.config.hidden_size, dtype=model.dtype, device=model.device, num_slots=num, length=length)
    for slot, request in enumerate(requests):
        ids = torch.tensor(request.token_ids(mask_id), device=model.device)
        canvas.put(slot, ids, ids == mask_id)
    return canvas


def _table(requests: Sequence[Request], policies: Mapping[str, UnmaskingPolicy], device: torch.device) -> SlotTable:
    table = SlotTable(len(requests), list(policies), device)
    for request in requests:
        table.put(request)
    table.upload()
    return table
