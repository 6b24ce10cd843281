"""What a request gives back: `RequestOutput` with its `RequestStats`, and `StepUpdate` while it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStats:
    """What one request cost, and what locking did in it.

    Attributes:
        steps: denoising steps, which is forwards, run.
        active_rows: positions computed in each step; counted once under guidance, never padding.
        active_ratio: sum(active_rows) / (steps x canvas length), the paper's r-bar.
        flops: {"paper" | "exact" | "full": {"base", "locked", "ratio"}} (`surelock.flops`).
        locked_at: for each canvas position, prompt first, the 1-based step that locked it, or None.
        ghost_rate: share of the locked generated positions that locked before their token was ever an input.
        gate_blocked: candidates that passed the KL test and were held back by the confidence gate, over all steps.
        seed: of the noise; None where nothing was random.
    """

    steps: int
    active_rows: list[int]
    active_ratio: float
    flops: dict[str, dict[str, float]]
    locked_at: list[int | None]
    ghost_rate: float
    gate_blocked: int
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A run of neighbouring positions inside the prompt that was denoised.

    Attributes:
        start: its first canvas position.
        token_ids: one for each position, end ids included; only `allow_mask` or a failure can leave the MASK id in it.
        text: of these tokens.
    """

    start: int
    token_ids: list[int]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """One finished request.

    Attributes:
        text: of the generated tokens: the gaps', then the appended part's. Only the appended part is cut, at its first
            stop string. For `LLM.infill` the whole document.
        token_ids: generated tokens: all those of the gaps in canvas order, end ids among them included, then the
            appended ones before the first end id. A failed request's hold no MASK id.
        finish_reason: "stop" at an end id or stop string, else "length"; "error" if the model's output was not finite.
        canvas_token_ids: the whole final canvas, prompt included; only `allow_mask` or a failure can leave the MASK id
            in it.
        prompt_tokens: given positions, gaps not counted.
        gaps: what filled the masked positions inside the prompt.
        notes: what was adjusted, one line each, for example a raised number of steps.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    canvas_token_ids: list[int]
    prompt_tokens: int
    stats: RequestStats
    gaps: tuple[Gap, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def generation_tokens(self) -> int:
        """How many tokens were generated and kept; never prompt tokens, padding or what follows an end id."""
        return len(self.token_ids)

    def to_dict(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "text": self.text,
            "token_ids": self.token_ids,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generation_tokens,
            "gaps": [asdict(gap) for gap in self.gaps],
            "notes": list(self.notes),
            "stats": asdict(self.stats),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUpdate:
    """The canvas of one request after one step, and what the step did.

    Attributes:
        index: of the prompt in the list given to `LLM.stream`.
        step: 1-based; `num_steps` is the planned total.
        canvas_token_ids: None where still masked.
        num_prompt: canvas positions before the appended ones, gaps included.
        locked: whether each position is locked.
        active_rows: positions computed in this step.
        committed, locked_now: positions that got their token, or locked, in this step.
        confidence: of each committed token: its probability under the raw softmax.
        kl: {position: KL(p_t || p_{t-1}) in nats} of the positions whose posterior was compared: the
            candidates for locking, or all active ones under a confidence gate with gate_scope="active".
        flops: FLOPs of this request so far, mode `full`: (with locking, without).
        output: the finished request, on its last update only.
    """

    index: int
    step: int
    num_steps: int
    canvas_token_ids: list[int | None]
    num_prompt: int
    locked: list[bool]
    active_rows: int
    committed: list[int]
    confidence: list[float]
    locked_now: list[int]
    kl: dict[int, float]
    flops: tuple[float, float]
    output: RequestOutput | None = None
