"""The dense decoder: a locked run in which every position is measured in every step, many canvases at once.

Where the engine saves the work of a locked position, this one does it on purpose and only replaces, in every layer,
what the others read of it: the keys and values of the step that locked it. So posteriors, decisions and damage are
exactly those of a locked run, and what the lock hides is seen as well. Cost is not saved but counted. With `LockParams`
it gives the tokens and locks of `decoding/oracle.py` in float32.

    decoder = DenseDecoder(llm.transformer)
    for step in decoder.steps(canvases, SamplingParams(max_tokens=64)):
        ...
    free = decoder.run(canvases, SamplingParams(max_tokens=64, lock=None))
    twin = decoder.steps(canvases, SamplingParams(max_tokens=64), forced=free)  # the same commits, with locks
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask
from surelock.decoding.noise import Purpose, row_key
from surelock.decoding.protocols import Proposal
from surelock.decoding.schedule import Schedule, plan
from surelock.decoding.unmasking import POLICIES
from surelock.errors import NonFiniteLogitsError, ParameterError
from surelock.measure.dense_forward import DenseForward
from surelock.measure.dense_rule import lock_by_kl, lock_numbers
from surelock.measure.dense_state import (
    DenseState,
    DenseStep,
    KeysValues,
    KVDrift,
    Record,
    Recorder,
    RefreshEvery,
    ScriptedLocks,
    StateRule,
    record,
)
from surelock.measure.parts import row_parts
from surelock.models.transformer import Transformer
from surelock.ops.step_kl import kl_from_logits
from surelock.ops.token_stats import token_stats
from surelock.params import SamplingParams

__all__ = [
    "DenseDecoder",
    "DenseState",
    "DenseStep",
    "KVDrift",
    "KeysValues",
    "Record",
    "Recorder",
    "RefreshEvery",
    "ScriptedLocks",
    "StateRule",
    "group_canvases",
    "record",
]

Canvas = Sequence[int | None]

# Logits of a canvas that live at the same time: this step's, the last one's, the caller's, and what comparing makes.
LIVE_LOGITS = 5


@dataclass(frozen=True, slots=True)
class DenseDecoder:
    """Decodes canvases of one length together.

    Attributes:
        model: its own weights are used, on their device and in their type.
        measure_drift: fill in `DenseStep.drift`.
        keep_keys_values: fill in `DenseStep.keys_values`.
    """

    model: Transformer
    measure_drift: bool = False
    keep_keys_values: bool = False

    def run(
        self,
        canvases: Sequence[Canvas],
        params: SamplingParams,
        *,
        seeds: Sequence[int] | int = 0,
        rule: StateRule | None = None,
        forced: Record | None = None,
        refresh: StateRule | int | None = None,
        unlock: StateRule | None = None,
    ) -> Record:
        """What a run decides; arguments as for `steps`."""
        return record(
            self.steps(canvases, params, seeds=seeds, rule=rule, forced=forced, refresh=refresh, unlock=unlock)
        )

    def steps(
        self,
        canvases: Sequence[Canvas],
        params: SamplingParams,
        *,
        seeds: Sequence[int] | int = 0,
        rule: StateRule | None = None,
        forced: Record | None = None,
        refresh: StateRule | int | None = None,
        unlock: StateRule | None = None,
    ) -> Iterator[DenseStep]:
        """Decode, yielding after every step.

        Args:
            canvases: prompt parts of one length and with as many gaps (None = masked); params.max_tokens masks are
                appended to each. `group_canvases` sorts ragged ones.
            params: of all of them. `lock` is the rule (None: no locks); `seed` and `stop` are not used.
            seeds: of each canvas, or one for all.
            rule: locks the positions it returns, of state.candidates only, instead of `params.lock`. Not asked on the
                last step, after which nothing is read.
            forced: commit what this record committed, in the same steps, whatever the model proposes.
            refresh: before a step, the locked positions to compute anew in it, whose keys and values everybody reads
                from then on; they stay locked and count as active rows of that step. An integer: all of them in every
                such step. Not asked before anything is locked.
            unlock: after a step, the locked positions that are active from the next one on. Unless `refresh` computed
                them in this step too, they have no posterior of a preceding step when the next begins, so they cannot
                lock in it by KL.

        Raises:
            ParameterError: the canvases cannot be decoded together, or `forced` is of others.
            NonFiniteLogitsError: the model's output is NaN or infinite.
        """
        checked = _checked(canvases, params, seeds, forced, self.model.config.max_sequence_length)
        if refresh is None and rule is None and params.lock is not None:
            refresh = params.lock.refresh
        return self._steps(
            checked, params, rule, forced, RefreshEvery(refresh) if isinstance(refresh, int) else refresh, unlock
        )

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
        start: _Start,
        params: SamplingParams,
        rule: StateRule | None,
        forced: Record | None,
        refresh: StateRule | None,
        unlock: StateRule | None,
    ) -> Iterator[DenseStep]:
        device, mask_id = self.model.device, self.model.config.mask_token_id
        appended = [mask_id] * params.max_tokens
        ids = [[mask_id if token is None else token for token in canvas] + appended for canvas in start.canvases]
        tokens = torch.tensor(ids, device=device)
        given = tokens != mask_id
        seeds = torch.tensor(start.seeds, device=device)
        lock = None if rule is not None or params.lock is None or params.lock.is_never else params.lock
        numbers = None if lock is None else lock_numbers(lock, len(tokens), device)
        forward = DenseForward(
            self.model,
            given=given if params.cfg_scale > 0 else None,
            cfg_scale=params.cfg_scale,
            with_drift=self.measure_drift,
            with_keys_values=self.keep_keys_values,
        )
        masked, nothing = ~given, torch.zeros_like(given)
        locked, computed = nothing, nothing
        locked_at = torch.zeros(tokens.shape, dtype=torch.int32, device=device)
        age = torch.zeros_like(locked_at)
        previous: Tensor | None = None
        state: DenseState | None = None
        block_masks = torch.zeros(len(tokens), dtype=torch.int64, device=device)

        num_steps = start.schedule.num_steps
        for t in range(1, num_steps + 1):
            block, index = start.schedule.locate(t)
            if index == 0:
                block_masks = masked[:, block.counted_from : block.end].sum(1)
            quota = block_masks // block.num_steps + (index < block_masks % block.num_steps)
            refreshed = nothing
            if refresh is not None and state is not None:
                refreshed = refresh(replace(state, step=t)) & locked

            hidden, logits, drift, keys_values = forward(tokens, locked, refreshed)
            kl, uncertainty = _moved(logits, previous)
            age = age + ~masked
            argmax, confidence = self._likeliest(logits, params.allow_mask)
            if not bool(confidence.isfinite().all()):
                raise NonFiniteLogitsError(
                    f"the model's logits were NaN or infinite at step {t}: check the weights or use dtype float32", []
                )

            before_end = torch.arange(tokens.shape[1], device=device) < block.end
            if forced is None:
                eligible = masked & before_end & (quota > 0).unsqueeze(1)
                proposal = Proposal(argmax, confidence, seeds, torch.full_like(seeds, t))
                if params.temperature > 0:
                    proposal = self._sampled(logits, eligible, proposal, params)
                committed = POLICIES[params.unmasking].select(proposal, eligible, quota) & (proposal.token != mask_id)
                chosen = proposal.token
            else:
                committed, chosen = (forced.committed_at.to(device) == t) & masked, forced.tokens.to(device)
            inputs, tokens = tokens, torch.where(committed, chosen, tokens)
            masked_before, masked = masked, masked & ~committed

            active = ~locked
            comparable = computed & active
            state = DenseState(
                t, num_steps, tokens, masked, given, locked, locked_at, active & ~masked, age,
                torch.where(comparable, kl, torch.inf), uncertainty, logits, drift,
            )  # fmt: skip
            newly_locked = nothing
            if t < num_steps and rule is not None:
                newly_locked = rule(state) & state.candidates
            elif t < num_steps and numbers is not None:
                newly_locked = lock_by_kl(state, numbers)
            unlocked = nothing if unlock is None or t == num_steps else unlock(state) & locked
            yield DenseStep(
                t, num_steps, hidden, logits, kl, uncertainty, argmax, confidence, inputs, tokens, masked_before,
                committed, locked, newly_locked, refreshed, unlocked, age, (active | refreshed).sum(1), drift,
                keys_values,
            )  # fmt: skip
            computed = active | refreshed
            locked = (locked | newly_locked) & ~unlocked
            locked_at = torch.where(newly_locked, t, torch.where(unlocked, 0, locked_at)).int()
            state = replace(state, locked=locked, locked_at=locked_at)
            previous = logits

    def _likeliest(self, logits: Tensor, allow_mask: bool) -> tuple[Tensor, Tensor]:
        """Ids and raw probabilities [B, N]; logits are rounded as the official samplers do."""
        rows = logits.flatten(0, 1)
        nowhere = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        stats = token_stats(
            rows,
            mask_token_id=self.model.config.mask_token_id,
            allow_mask=torch.full_like(nowhere, allow_mask, dtype=torch.bool),
            temperature=nowhere.double(),
            key=nowhere,
            may_sample=False,
            rounding=None if self.model.dtype == torch.float32 else self.model.dtype,
            choice_only=True,
        )
        return stats.token.view(logits.shape[:2]), stats.probability.view(logits.shape[:2])

    def _sampled(self, logits: Tensor, eligible: Mask, greedy: Proposal, params: SamplingParams) -> Proposal:
        """The proposal with noise, where eligible."""
        canvas, position = eligible.nonzero(as_tuple=True)
        step = greedy.step[canvas]
        stats = token_stats(
            logits[canvas, position],
            mask_token_id=self.model.config.mask_token_id,
            allow_mask=torch.full_like(canvas, params.allow_mask, dtype=torch.bool),
            temperature=torch.full(canvas.shape, params.temperature, dtype=torch.float64, device=logits.device),
            key=row_key(greedy.seed[canvas], step, position, Purpose.TOKEN),
            may_sample=True,
            rounding=None if self.model.dtype == torch.float32 else self.model.dtype,
            choice_only=True,
        )
        token, confidence = greedy.token.clone(), greedy.confidence.clone()
        token[canvas, position], confidence[canvas, position] = stats.token, stats.probability
        return replace(greedy, token=token, confidence=confidence)


def group_canvases(canvases: Sequence[Canvas], batch_size: int | None = None) -> list[list[int]]:
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


class _Start(NamedTuple):
    """A checked request for B canvases."""

    canvases: Sequence[Canvas]
    seeds: list[int]
    schedule: Schedule


def _checked(
    canvases: Sequence[Canvas], params: SamplingParams, seeds: Sequence[int] | int, forced: Record | None, limit: int
) -> _Start:
    shapes = {(len(ids), sum(token is None for token in ids)) for ids in canvases}
    if len(shapes) != 1:
        raise ParameterError(
            f"canvases are of {len(shapes)} kinds; one length and one number of gaps are decoded together: sort them "
            "with group_canvases"
        )
    ((num_prompt, num_gaps),) = shapes
    num_positions = num_prompt + params.max_tokens
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
    return _Start(canvases, each, plan(params, num_prompt, num_gaps))


def _moved(logits: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
    """KL(p_t || p_{t-1}) and 1 - max p_t, float32 [B, N], from logits [B, N, V]."""
    rows = logits.flatten(0, 1)
    before = rows if previous is None else previous.flatten(0, 1)
    parts = [kl_from_logits(rows[part], before[part]) for part in row_parts(*rows.shape)]
    kl, uncertainty = (torch.cat(of_parts).view(logits.shape[:2]) for of_parts in zip(*parts, strict=True))
    return (torch.full_like(kl, torch.inf) if previous is None else kl), uncertainty
