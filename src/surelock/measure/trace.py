"""The posterior of every position in every step of a run, reduced to numbers: what the theorem and calibration read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surelock.errors import ParameterError
from surelock.measure.instrumented import CanvasIds, InstrumentedDecoder, Recorder, group_canvases
from surelock.measure.instrumented.decoder import lock_by_kl, lock_numbers
from surelock.measure.instrumented.records import KLState
from surelock.measure.posteriors import row_parts
from surelock.ops.head_logits import Head, head_logits_float32
from surelock.params import LockParams, SamplingParams

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]
Flags = NDArray[np.bool_]

# Bytes of hidden rows kept from the first step to the last.
HIDDEN_BYTES = 1 << 28
CUDA_HIDDEN_BYTES = 20 << 30


@dataclass(frozen=True, slots=True)
class Trace:
    """One run of B canvases of N positions, float32 [T, B, N] unless said otherwise; index t - 1 is step t of T.

    Attributes:
        kl: KL(p_t || p_{t-1}) in nats; +inf on the first step.
        uncertainty: 1 - max p_t.
        logit_step: ||z_t - z_{t-1}||_2 with the mean change taken out, which no softmax sees; NaN on the first step.
        log_step: max_v |log p_t(v) - log p_{t-1}(v)|; NaN on the first step.
        tv: total variation of p_t and p_T, the posterior of the last step.
        log_gap: max_v |log p_t(v) - log p_T(v)|.
        token_gap: |log p_t(x) - log p_T(x)| for the token x the canvas ends with.
        flipped: bool, the likeliest id of p_t is not that of p_T.
        committed_at: int32 [B, N], step that committed the token; 0 for given positions, -1 where still masked.
        locked_at: int32 [B, N], step that locked the position in this run; 0 = never.
        rewritten: int32 [B, N], times a committed or given token changed.
        vocab_size: V.
        canvases: int64 [B], which canvases of the caller's these are.
    """

    kl: Floats
    uncertainty: Floats
    logit_step: Floats
    log_step: Floats
    tv: Floats
    log_gap: Floats
    token_gap: Floats
    flipped: Flags
    committed_at: Integers
    locked_at: Integers
    rewritten: Integers
    vocab_size: int
    canvases: NDArray[np.int64]

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.kl)

    @property
    def given(self) -> Flags:
        """[B, N], positions of the prompt."""
        given: Flags = self.committed_at == 0
        return given

    def take(self, where: Flags) -> Trace:
        """Some of the canvases, where [B]."""
        of_canvases = ("committed_at", "locked_at", "rewritten", "canvases")
        changes: dict[str, Any] = {name: getattr(self, name)[where] for name in of_canvases}
        of_steps = (field.name for field in fields(self) if field.name not in (*of_canvases, "vocab_size"))
        return replace(self, **changes, **{name: getattr(self, name)[:, where] for name in of_steps})


def trace_all(
    decoder: InstrumentedDecoder,
    canvases: Sequence[CanvasIds],
    params: SamplingParams,
    *,
    canvas_numbers: Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Trace]:
    """Traces of canvases of any lengths, grouped by length.

    Args:
        canvas_numbers: of the canvases; each has the seed params.seed (or 0) + its number. None: 0, 1, 2 ...
        batch_size: canvases of one group at most. None: as many as fit in memory.
        progress: called with (canvases done, canvases) after each group.
    """
    numbers = range(len(canvases)) if canvas_numbers is None else canvas_numbers
    traces: list[Trace] = []
    num_done = 0
    for indices in group_canvases(canvases):
        group = [canvases[index] for index in indices]
        num_positions = len(group[0]) + params.max_tokens
        size = batch_size or trace_batch_size(decoder, num_positions, _num_steps(params, group[0]))
        for start in range(0, len(group), size):
            part = slice(start, start + size)
            own = [numbers[index] for index in indices[part]]
            traces.append(trace(decoder, group[part], params, canvas_numbers=own))
            num_done += len(indices[part])
            progress(num_done, len(canvases))
    return traces


def trace_batch_size(decoder: InstrumentedDecoder, num_positions: int, num_steps: int) -> int:
    """Canvases whose trace fits in memory, the hidden rows of every step included; at least 1."""
    model = decoder.model
    budget = CUDA_HIDDEN_BYTES if model.device.type == "cuda" else HIDDEN_BYTES
    of_canvas = num_steps * num_positions * model.config.hidden_size * model.dtype.itemsize
    return max(1, min(decoder.batch_size(num_positions), budget // of_canvas))


def trace(
    decoder: InstrumentedDecoder,
    canvases: Sequence[CanvasIds],
    params: SamplingParams,
    *,
    canvas_numbers: Sequence[int] | None = None,
) -> Trace:
    """Decode canvases of one kind (see `InstrumentedDecoder.steps`) with `params.lock` and measure every position.

    canvas_numbers: as for `trace_all`.

    Raises: as `InstrumentedDecoder.steps`.
    """
    recorder = Recorder()
    rows: dict[str, list[Any]] = {name: [] for name in ("kl", "uncertainty", "logit_step", "log_step")}
    hidden: list[Tensor] = []
    previous: Tensor | None = None
    rewritten: Tensor | None = None
    numbers = range(len(canvases)) if canvas_numbers is None else canvas_numbers
    # Noise of its own for each: with one seed all would share it.
    for step in decoder.steps(canvases, params, seeds=[(params.seed or 0) + number for number in numbers]):
        recorder.add(step)
        hidden.append(step.hidden)
        logit_step, log_step = _steps(step.logits, previous)
        for name, values in (
            ("kl", step.kl), ("uncertainty", step.uncertainty), ("logit_step", logit_step), ("log_step", log_step)
        ):  # fmt: skip
            rows[name].append(values.cpu().numpy())
        changed = ((step.tokens != step.inputs) & ~step.masked).int()
        rewritten = changed if rewritten is None else rewritten + changed
        previous = step.logits
    if previous is None or rewritten is None:
        raise ParameterError("the canvases have nothing to denoise, so there is no step to measure; raise max_tokens")
    record = recorder.record()
    gaps: dict[str, list[Any]] = {name: [] for name in ("tv", "log_gap", "token_gap", "flipped")}
    for of_step in hidden:
        for name, values in zip(gaps, _gaps(of_step, previous, record.tokens, decoder.model.lm_head), strict=True):
            gaps[name].append(values.cpu().numpy())
    stacked = {name: np.stack(values) for name, values in (rows | gaps).items()}
    return Trace(
        **stacked,
        committed_at=record.committed_at.cpu().numpy(),
        locked_at=record.locked_at.cpu().numpy(),
        rewritten=rewritten.cpu().numpy(),
        vocab_size=previous.shape[2],
        canvases=np.array(numbers, dtype=np.int64),
    )


def lock_steps(run: Trace, lock: LockParams) -> Integers:
    """The step [B, N] at which the rule first holds for each position of a run without locks; 0 where it never does.

    Nothing is frozen by that: it is where a lock would have been placed, which is what Theorem 1 compares with the last
    step of the same run. The confidence gate, if any, leaves out positions that would be locked already. No test on the
    last step.
    """
    found = torch.zeros(run.committed_at.shape, dtype=torch.int32)
    if lock.is_never:
        return found.numpy()
    committed_at, given = torch.from_numpy(run.committed_at), torch.from_numpy(run.given)
    numbers = lock_numbers(lock, len(found), found.device)
    for t in range(1, run.num_steps):
        locked = found > 0
        # Forwards that had the real token as input: those after the one that committed it.
        age = torch.where(committed_at >= 0, t - committed_at, 0).clamp_min(0)
        candidates = (committed_at >= 0) & (committed_at <= t) & ~locked
        kl, uncertainty = torch.from_numpy(run.kl[t - 1]), torch.from_numpy(run.uncertainty[t - 1])
        state = KLState(
            step=t, given=given, locked=locked, candidates=candidates, age=age, kl=kl, uncertainty=uncertainty
        )
        found[lock_by_kl(state, numbers)] = t
    return found.numpy()


def _num_steps(params: SamplingParams, canvas: CanvasIds) -> int:
    return max(params.steps or 0, params.max_tokens + sum(token is None for token in canvas), 1)


def _steps(logits: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
    """`Trace.logit_step` and `log_step` [B, N] of logits [B, N, V]."""
    shape = logits.shape[:2]
    if previous is None:
        unknown = torch.full(shape, torch.nan)
        return unknown, unknown
    rows, before = logits.flatten(0, 1), previous.flatten(0, 1)
    norms, gaps = [], []
    for part in row_parts(*rows.shape):
        # [rows, V]
        change = rows[part] - before[part]
        norms.append((change - change.mean(1, keepdim=True)).norm(dim=1))
        shift = rows[part].logsumexp(1, keepdim=True) - before[part].logsumexp(1, keepdim=True)
        gaps.append((change - shift).abs().amax(1))
    return torch.cat(norms).view(shape), torch.cat(gaps).view(shape)


@torch.no_grad()
def _gaps(hidden: Tensor, final: Tensor, tokens: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """tv, log_gap, token_gap, flipped [B, N] of hidden rows [B, N, d] against the last step's logits [B, N, V]."""
    shape = hidden.shape[:2]
    rows, last, ids = hidden.flatten(0, 1), final.flatten(0, 1), tokens.flatten()
    found: list[tuple[Tensor, ...]] = []
    for part in row_parts(*last.shape):
        # [rows, V]
        log_p, log_q = head_logits_float32(rows[part], head).log_softmax(1), last[part].log_softmax(1)
        gap = (log_p - log_q).abs()
        flipped = log_p.argmax(1) != log_q.argmax(1)
        of_token = gap.gather(1, ids[part].unsqueeze(1)).squeeze(1)
        tv = (log_p.exp() - log_q.exp()).abs().sum(1) / 2
        found.append((tv, gap.amax(1), of_token, flipped))
    tv, log_gap, token_gap, flipped = (torch.cat(values).view(shape) for values in zip(*found, strict=True))
    return tv, log_gap, token_gap, flipped
