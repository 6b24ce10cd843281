"""How far a job is: `Totals` of its rows, and `Progress` of one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import ConfigDict, with_config

# What a job reads back of itself may have been damaged or edited.
READ_STRICTLY: Final = ConfigDict(strict=True, extra="forbid")


@with_config(READ_STRICTLY)
@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Of the rows that have a record.

    Attributes:
        num_done: rows, `num_failed` of them without an answer.
        num_tokens: generated and kept.
        flops_locked, flops_base: FLOPs (mode `full`) with locking and without.
    """

    num_done: int = 0
    num_failed: int = 0
    num_tokens: int = 0
    flops_locked: float = 0.0
    flops_base: float = 0.0

    @property
    def saved(self) -> float:
        """Share of the FLOPs that locking saved."""
        return 1 - self.flops_locked / self.flops_base if self.flops_base else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One run of a job.

    Attributes:
        totals: of the whole job by now; `before` when this run began.
        num_rows: of the input.
        seconds: since the model was there.
        num_bytes_dropped: of a record that was not whole when the run began.
    """

    totals: Totals
    before: Totals
    num_rows: int
    seconds: float
    num_bytes_dropped: int

    @property
    def tokens_per_second(self) -> float:
        """Of this run."""
        return (self.totals.num_tokens - self.before.num_tokens) / max(self.seconds, 1e-3)

    @property
    def seconds_left(self) -> float | None:
        """At the pace of this run; None before its first row is done."""
        num_done = self.totals.num_done - self.before.num_done
        return self.seconds / num_done * (self.num_rows - self.totals.num_done) if num_done else None
