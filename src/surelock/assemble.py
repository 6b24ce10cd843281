"""From a request's last snapshot to its `RequestOutput`: end ids, stop strings, gaps, statistics."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from surelock.flops import full_flops, request_flops
from surelock.models.config import ModelConfig
from surelock.output import FinishReason, Gap, RequestOutput, RequestStats, StepUpdate
from surelock.text.answers import Decode, Layout, no_text

if TYPE_CHECKING:
    from surelock.engine.request import Request
    from surelock.engine.snapshot import Snapshot
    from surelock.text.tokenizer import Tokenizer


def request_output(snapshot: Snapshot, config: ModelConfig, tokenizer: Tokenizer | None) -> RequestOutput:
    """The result of a finished request."""
    request, params = snapshot.request, snapshot.request.params
    decode = tokenizer.decode if tokenizer else no_text
    gaps = tuple(_gaps(snapshot, decode))
    in_gaps = [token for gap in gaps for token in gap.token_ids]
    end_ids = tokenizer.end_ids if tokenizer else frozenset(config.eos_token_ids)
    appended = range(request.num_prompt, request.num_positions)
    layout = Layout((appended,), frozenset() if params.ignore_eos else end_ids, params.stop)
    # Where a failed request is still masked it has the id of [MASK], which decodes to nothing.
    final = layout.final_text(snapshot.tokens, [False] * request.num_positions, decode)
    finish_reason: FinishReason = "stop" if final.is_cut else "length"
    token_ids = in_gaps + final.tokens
    if request.failed:
        finish_reason = "error"
        token_ids = [token for token in token_ids if token != config.mask_token_id]
    return RequestOutput(
        text=decode(in_gaps) + final.text,
        token_ids=token_ids,
        finish_reason=finish_reason,
        canvas_token_ids=snapshot.tokens,
        prompt_tokens=request.num_prompt - request.num_gaps,
        stats=_stats(snapshot, config),
        gaps=gaps,
        notes=request.schedule.notes,
    )


def spent(request: Request) -> dict[str, int]:
    """What a request has computed so far, as arguments of `full_flops`."""
    return {
        "num_rows": sum(request.active_rows),
        "num_steps": request.step,
        "num_positions": request.num_positions,
        "num_masked": sum(request.num_proposed),
        "num_tested": sum(request.num_scored),
        "num_streams": request.num_streams,
    }


def step_update(snapshot: Snapshot, index: int, config: ModelConfig, output: RequestOutput | None) -> StepUpdate:
    """What a watcher sees of a step; output on the request's last one."""
    request = snapshot.request
    # Every step of a long run comes here, so only what changes is added up.
    locked, base = full_flops(config, **spent(request))
    return StepUpdate(
        index=index,
        step=request.step,
        num_steps=request.num_steps,
        canvas_token_ids=[None if m else t for t, m in zip(snapshot.tokens, snapshot.masked, strict=True)],
        num_prompt=request.num_prompt,
        locked=[step is not None for step in snapshot.locked_at],
        active_rows=request.active_rows[-1],
        committed=[position for position, _ in snapshot.committed],
        confidence=[confidence for _, confidence in snapshot.committed],
        locked_now=snapshot.locked,
        kl=snapshot.kl,
        flops=(float(locked), float(base)),
        output=output,
    )


def _stats(snapshot: Snapshot, config: ModelConfig) -> RequestStats:
    request = snapshot.request
    num_computed, num_possible = sum(request.active_rows), request.step * request.num_positions
    return RequestStats(
        steps=request.step,
        active_rows=request.active_rows,
        active_ratio=num_computed / num_possible if num_possible else 1.0,
        flops=request_flops(
            config,
            active_rows=request.active_rows,
            num_positions=request.num_positions,
            masked_rows=request.num_proposed,
            candidate_rows=request.num_scored,
            num_streams=request.num_streams,
        ),
        locked_at=snapshot.locked_at,
        ghost_rate=request.num_ghosts / max(request.num_generated_locks, 1),
        gate_blocked=request.num_gate_blocked,
        seed=request.seed if request.uses_seed else None,
    )


def _gaps(snapshot: Snapshot, decode: Decode) -> Iterable[Gap]:
    """Runs of neighbouring masked positions of the prompt."""
    prompt = snapshot.request.canvas_ids
    for is_gap, run in groupby(range(len(prompt)), key=lambda position: prompt[position] is None):
        if is_gap:
            positions = list(run)
            token_ids = [snapshot.tokens[position] for position in positions]
            yield Gap(start=positions[0], token_ids=token_ids, text=decode(token_ids))
