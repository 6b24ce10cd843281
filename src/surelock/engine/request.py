"""One request: what was asked, where it is, and what has been counted so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from surelock.decoding.schedule import Schedule, plan
from surelock.params import LockParams, SamplingParams

NEVER = LockParams(kl_threshold=-1.0)


@dataclass(eq=False)
class Request:
    """A canvas being denoised.

    Attributes:
        id: counts the engine's requests from 0.
        canvas_ids: the prompt part of the canvas, None where masked; max_tokens masks follow.
        seed: of its noise.
        slot: where its canvas, keys and values live; None while it waits.
        step: steps done.
        num_block_masks: masks the current block started with.
        active_rows, num_proposed, num_scored: per step: positions computed, and rows whose logits were computed for
            unmasking and for locking.
    """

    id: int
    canvas_ids: tuple[int | None, ...]
    params: SamplingParams
    seed: int
    slot: int | None = None
    step: int = 0
    num_block_masks: int = 0
    active_rows: list[int] = field(default_factory=list)
    num_proposed: list[int] = field(default_factory=list)
    num_scored: list[int] = field(default_factory=list)
    num_gate_blocked: int = 0
    num_ghosts: int = 0
    num_generated_locks: int = 0
    failed: bool = False
    schedule: Schedule = field(init=False)

    def __post_init__(self) -> None:
        self.schedule = plan(self.params, len(self.canvas_ids), self.num_gaps)

    @property
    def num_prompt(self) -> int:
        """Positions before the appended masks, gaps included."""
        return len(self.canvas_ids)

    @property
    def num_gaps(self) -> int:
        """Masked positions among them."""
        return sum(token is None for token in self.canvas_ids)

    @property
    def num_positions(self) -> int:
        """N, the length of the canvas."""
        return self.num_prompt + self.params.max_tokens

    @property
    def num_steps(self) -> int:
        """Forwards the request will run."""
        return self.schedule.num_steps

    @property
    def is_finished(self) -> bool:
        """Whether its last step is done, or it failed."""
        return self.failed or self.step == self.num_steps

    @property
    def is_guided(self) -> bool:
        """Whether a second, unconditional stream is computed."""
        return self.params.cfg_scale > 0

    @property
    def uses_seed(self) -> bool:
        """Whether anything about it is random."""
        return self.params.temperature > 0 or self.params.unmasking == "random"

    @property
    def lock(self) -> LockParams:
        """Its lock parameters, with a rule that never locks standing for None."""
        return self.params.lock or NEVER

    def token_ids(self, mask_token_id: int) -> list[int]:
        """The whole canvas before the first step."""
        given: Sequence[int] = [mask_token_id if token is None else token for token in self.canvas_ids]
        return [*given, *[mask_token_id] * self.params.max_tokens]
