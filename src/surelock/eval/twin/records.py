"""What is kept of every step while the twins run: plain arrays, from which tables are made at the end."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Row = dict[str, Any]

# What a lock is classed by: prompt positions, then its age when it locked. A generated position of age 0 is a ghost.
LOCK_CLASSES: Final = ("prompt", "0", "1", "2-3", "4+")
GHOST: Final = LOCK_CLASSES.index("0")


@dataclass(slots=True)
class StepRecord:
    """One step of one rule, over all canvases.

    Attributes:
        kl: of every masked row, one array for each batch.
        num_flips: masked rows that propose another token. `num_commits`, `num_commit_flips`: the same among the rows
            that are unmasked by this step.
        num_frozen, num_ghosts: locked positions whose keys and values were read.
        num_positions: all of them.
    """

    kl: list[Floats] = field(default_factory=list)
    num_flips: int = 0
    num_commits: int = 0
    num_commit_flips: int = 0
    num_frozen: int = 0
    num_ghosts: int = 0
    num_positions: int = 0


@dataclass(slots=True)
class Sums:
    """What each sequence adds to a mean, by the number of its prompt.

    Attributes:
        amounts: what is summed. `numbers`: of how many things.
    """

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

    @property
    def kl_sum(self) -> float:
        """Over the rows, in nats."""
        return self.per_lock.amount

    @property
    def num_locks(self) -> int:
        """Frozen positions, summed over num_steps."""
        return self.per_lock.number


class Group(NamedTuple):
    """A group of locks: by which `axis` they were told apart (all, age, drift or layer), and its name."""

    axis: str
    name: str


@dataclass(slots=True)
class RuleRecord:
    """Everything measured of one rule.

    Attributes:
        steps: by step. `groups`: by group.
        drifts: (class, steps since the lock) -> arrays [num_layers, 2, k]: relative change of keys and values.
        effects: a row for each lock that was set free on its own.
        flips: a row for each flip that was traced to its guilty locks.
        first_flip: {prompt: first step with a flip}, of those that had one.
    """

    steps: defaultdict[int, StepRecord] = field(default_factory=lambda: defaultdict(StepRecord))
    groups: defaultdict[Group, GroupRecord] = field(default_factory=lambda: defaultdict(GroupRecord))
    drifts: defaultdict[tuple[str, int], list[Floats]] = field(default_factory=lambda: defaultdict(list))
    effects: list[Row] = field(default_factory=list)
    flips: list[Row] = field(default_factory=list)
    first_flip: dict[int, int] = field(default_factory=dict)


class SpreadKey(NamedTuple):
    """Tokens of one kind of run (`locked` or its `control`), from `start` steps or positions on."""

    rule: str
    run: str
    start: int


def _counts() -> defaultdict[SpreadKey, Sums]:
    """Tokens that differ from those of the run without locks, of how many tokens."""
    return defaultdict(Sums)


@dataclass(slots=True)
class TwinRecord:
    """Everything measured.

    Attributes:
        rules: by name.
        changes: age -> arrays [num_layers, 2, k]: relative change of a generated position's keys and values from one
            step to the next without locks; age 0 is still masked, 1 the first step with its token.
        free: a row for each rule and prompt: the runs that make their own decisions.
        growth, spread: their tokens, by steps since the first difference and by positions from it.
    """

    rules: dict[str, RuleRecord]
    changes: defaultdict[int, list[Floats]] = field(default_factory=lambda: defaultdict(list))
    free: list[Row] = field(default_factory=list)
    growth: defaultdict[SpreadKey, Sums] = field(default_factory=_counts)
    spread: defaultdict[SpreadKey, Sums] = field(default_factory=_counts)
