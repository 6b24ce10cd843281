"""What is kept of a rule while its runs are measured: plain arrays and sums, from which tables are made at the end."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from studies.study import Row
from surelock.measure.statistics import weighted_mean

Floats = NDArray[np.float32]

# What a lock is classed by: prompt positions, then its age when it locked. A generated position of age 0 is a ghost.
LOCK_CLASSES: Final = ("prompt", "0", "1", "2-3", "4+")
GHOST: Final = LOCK_CLASSES.index("0")
# Fewer sequences make no interval.
MIN_SEQUENCES: Final = 5


@dataclass(slots=True)
class Sums:
    """What each sequence adds to a mean, by the number of its prompt: amounts, and of how many things."""

    amounts: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    numbers: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, prompt: int, amount: float, number: int) -> None:
        """Add to what a sequence has."""
        self.amounts[prompt] += amount
        self.numbers[prompt] += number

    @property
    def amount(self) -> float:
        """Of all sequences."""
        return sum(self.amounts.values())

    @property
    def number(self) -> int:
        """Of all sequences."""
        return sum(self.numbers.values())

    def mean(self, name: str) -> Row:
        """The mean under a name, with a 95 % bootstrap interval over sequences, which depend on each other within."""
        row: Row = {name: self.amount / self.number, f"{name}_low": None, f"{name}_high": None}
        if len(self.numbers) >= MIN_SEQUENCES:
            prompts = list(self.numbers)
            found = weighted_mean([self.amounts[i] for i in prompts], [self.numbers[i] for i in prompts], seed=0)
            row |= {f"{name}_low": found.low, f"{name}_high": found.high}
        return row


@dataclass(slots=True)
class StepRecord:
    """One step over all canvases: KL of every masked row, and counts of rows and positions."""

    kl: list[Floats] = field(default_factory=list)
    num_flips: int = 0
    num_commits: int = 0
    num_commit_flips: int = 0
    num_frozen: int = 0
    num_ghosts: int = 0
    num_positions: int = 0


class Group(NamedTuple):
    """A group of locks: by which `axis` they were told apart (all, age, drift or layer), and its name."""

    axis: str
    name: str


@dataclass(slots=True)
class GroupRecord:
    """Steps computed again with only one group of the locks frozen.

    Attributes:
        num_steps: canvases times steps. `num_rows`: masked rows. `num_flips`: among them.
        per_lock: KL summed over the rows, and frozen positions, summed over the canvases' steps.
    """

    num_steps: int = 0
    num_rows: int = 0
    num_flips: int = 0
    per_lock: Sums = field(default_factory=Sums)

    def row(self) -> Row:
        """Columns of a table."""
        return {
            "canvas_steps": self.num_steps, "locks": self.per_lock.number, "masked_rows": self.num_rows,
            "kl_mean": self.per_lock.amount / max(self.num_rows, 1), **self.per_lock.mean("kl_per_lock"),
            "flip_rate": self.num_flips / max(self.num_rows, 1),
        }  # fmt: skip


def _groups() -> defaultdict[Group, GroupRecord]:
    return defaultdict(GroupRecord)


def _sums() -> defaultdict[tuple[str, int], Sums]:
    return defaultdict(Sums)


@dataclass(slots=True)
class Record:
    """Everything measured of one rule.

    Attributes:
        steps: by step. `groups`: by group.
        drifts: (class, steps since the lock) -> arrays [num_layers, 2, k]: relative change of keys and values.
        changes: age -> the same from one step to the next without locks; age 0 is still masked.
        effects: a row for each lock that was set free on its own. `flips`: for each flip that was traced.
        first_flip: {prompt: first step with a flip}, of those that had one.
        free: a row for each prompt: the runs that make their own decisions.
        growth, spread: (locked or control, start of a bin) -> their tokens that differ from no lock, by steps since the
            first difference and by positions from it.
    """

    steps: defaultdict[int, StepRecord] = field(default_factory=lambda: defaultdict(StepRecord))
    groups: defaultdict[Group, GroupRecord] = field(default_factory=_groups)
    drifts: defaultdict[tuple[str, int], list[Floats]] = field(default_factory=lambda: defaultdict(list))
    changes: defaultdict[int, list[Floats]] = field(default_factory=lambda: defaultdict(list))
    effects: list[Row] = field(default_factory=list)
    flips: list[Row] = field(default_factory=list)
    first_flip: dict[int, int] = field(default_factory=dict)
    free: list[Row] = field(default_factory=list)
    growth: defaultdict[tuple[str, int], Sums] = field(default_factory=_sums)
    spread: defaultdict[tuple[str, int], Sums] = field(default_factory=_sums)
