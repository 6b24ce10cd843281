"""One request: what was asked, where it is, and what has been counted so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from surelock.decoding.schedule import Schedule, plan
from surelock.decoding.step import StepCounts
from surelock.errors import SureLockError
from surelock.params import LockParams, SamplingParams

NEVER = LockParams(kl_threshold=-1.0)


@dataclass(eq=False)
class Request:
    """A canvas being denoised.

    Attributes:
        id: counts the engine's requests from 0.
        canvas_ids: the prompt part of the canvas, None where masked; max_tokens masks follow.
        seed: of its noise.
        slot: where its canvas lives; None while it waits and when it has left.
        kv_starts: first place of each stream's keys and values.
        num_gaps: masked positions among canvas_ids.
        num_next, num_next_proposed, num_next_tested: what its next step needs room for (`StepCounts`), as the device
            counted it; before that, its whole canvas.
        is_done: it has all its tokens.
        failed: it ended before its last step; `error` says why, if not because its logits were not finite.
        active_rows, num_proposed, num_scored: per step done: positions computed, and rows whose logits were computed
            for unmasking and for locking.
    """

    id: int
    canvas_ids: tuple[int | None, ...]
    params: SamplingParams
    seed: int
    slot: int | None = None
    kv_starts: tuple[int, ...] = ()
    num_gaps: int = field(init=False)
    schedule: Schedule = field(init=False)

    def __post_init__(self) -> None:
        self.num_gaps = sum(token is None for token in self.canvas_ids)
        self.schedule = plan(self.params, self.num_prompt, self.num_gaps)
        self.restart()

    def restart(self) -> None:
        """Forget all steps. They would be the same again: nothing about them depends on when they run."""
        self.num_next = self.num_next_proposed = self.num_next_tested = self.num_positions
        self.active_rows: list[int] = []
        self.num_proposed: list[int] = []
        self.num_scored: list[int] = []
        self.num_gate_blocked = 0
        self.num_ghosts = 0
        self.num_generated_locks = 0
        self.is_done = False
        self.failed = False
        self.error: SureLockError | None = None

    @property
    def num_prompt(self) -> int:
        """Positions before the appended masks, gaps included."""
        return len(self.canvas_ids)

    @property
    def num_positions(self) -> int:
        """N, the length of the canvas."""
        return self.num_prompt + self.params.max_tokens

    @property
    def num_streams(self) -> int:
        """2 under guidance, which computes an unconditional stream too, else 1."""
        return 2 if self.params.cfg_scale > 0 else 1

    @property
    def num_steps(self) -> int:
        """Forwards the request will run."""
        return self.schedule.num_steps

    @property
    def num_rows(self) -> int:
        """Rows of all its streams that any step from the next one on computes at most."""
        num = self.num_next if self.lock.refresh is None else self.num_positions
        return num * self.num_streams

    @property
    def step(self) -> int:
        """Steps whose results are known."""
        return len(self.active_rows)

    @property
    def is_finished(self) -> bool:
        """Whether it has all its tokens, or failed."""
        return self.is_done or self.failed

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

    def count(self, counts: StepCounts) -> None:
        """Take in the results of one more step."""
        self.active_rows.append(counts.rows)
        self.num_proposed.append(counts.proposed)
        self.num_scored.append(counts.scored)
        self.num_gate_blocked += counts.gate_blocked
        self.num_ghosts += counts.ghosts
        self.num_generated_locks += counts.generated_locks
        self.failed = bool(counts.failed)
        self.is_done = bool(counts.done)
        self.expect(counts.next_rows, counts.next_proposed, counts.next_tested)

    def expect(self, num_rows: int, num_proposed: int, num_tested: int) -> None:
        """Take in what the device says its next step needs."""
        self.num_next, self.num_next_proposed, self.num_next_tested = num_rows, num_proposed, num_tested
