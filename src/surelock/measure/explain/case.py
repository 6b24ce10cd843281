"""One explained run, as plain values that are shown, written to a file and read again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from surelock.errors import ParameterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """One position of the canvas in both runs.

    Attributes:
        given: part of the prompt.
        unlocked, locked: what to show of its token without and with locks; equal texts may be two tokens.
        differs: the tokens differ.
        unlocked_step, locked_step: that unmasked it; 0 for the prompt.
        locked_at: step that locked it in the locked run, or None.
        age_at_lock: forwards it had been through with its token by then; 0 of a generated position: a ghost.
        kl_at_lock, uncertainty_at_lock: of its posterior in that step, None where it had none to compare with.
    """

    given: bool
    unlocked: str
    locked: str
    differs: bool
    unlocked_step: int
    locked_step: int
    locked_at: int | None = None
    age_at_lock: int | None = None
    kl_at_lock: float | None = None
    uncertainty_at_lock: float | None = None

    @property
    def is_ghost(self) -> bool:
        """Whether its frozen keys and values are those of [MASK]."""
        return not self.given and self.locked_at is not None and self.age_at_lock == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Guilty:
    """A lock that is to blame for a flip.

    Attributes:
        position: of the lock.
        gain: how far setting it free alone moves the row's logit margin back, in nats.
    """

    position: int
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A decision of the locked run that would have been another one, had its locks been fresh in that step.

    Attributes:
        position, step: where and when it wrote.
        instead_of: the position it would have written to, where that is the difference; None: another token.
        fresh, written: what to show of the token it would have written, and of the one it wrote.
        kl: KL(nothing frozen || with locks) of the row, in nats.
        guilty: the worst first; at most a few are listed. `num_guilty`: how many there are.
        alone: each of them restores the decision on its own; otherwise only all of them together.
    """

    position: int
    step: int
    instead_of: int | None = None
    fresh: str
    written: str
    kl: float
    guilty: list[Guilty]
    num_guilty: int
    alone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One prompt, decoded without and with locks.

    Attributes:
        model, rule: names.
        number: of the prompt, from 1.
        num_steps: of either run.
        active_ratio: of the locked run.
        agreement: share of the generated positions with the same token.
        first_step: the first step in which the runs unmask other positions or write other tokens, or None.
        first_positions: the positions that one or the other unmasked differently in it.
        positions: all of the canvas.
        damage: in the order of steps: the first choice of another position, if the runs part so, and tokens.
            `num_damage`: how many there are, listed or not.
    """

    model: str
    rule: str
    number: int
    num_steps: int
    active_ratio: float
    agreement: float
    first_step: int | None
    first_positions: list[int]
    positions: list[Position]
    damage: list[Damage]
    num_damage: int

    def to_json(self) -> bytes:
        """One line."""
        return orjson.dumps(self)


def read_cases(content: bytes, source: str) -> list[Case]:
    """Cases from lines of JSON as `Case.to_json` writes them.

    Raises:
        ParameterError: a line is not a case, or there is none; the message names `source`.
    """
    cases = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            case = _adapter().validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "the line"
            raise ParameterError(
                f"{source} line {number} is not a case of `surelock explain --json`: {place}: {first['msg']}"
            ) from None
        _check_positions(case, f"{source} line {number}")
        cases.append(case)
    if not cases:
        raise ParameterError(f"{source} holds no case; write one with `surelock explain --json`")
    return cases


def _check_positions(case: Case, source: str) -> None:
    named = [*case.first_positions, *(damage.position for damage in case.damage)]
    named += [guilty.position for damage in case.damage for guilty in damage.guilty]
    named += [damage.instead_of for damage in case.damage if damage.instead_of is not None]
    for position in named:
        if not 0 <= position < len(case.positions):
            raise ParameterError(f"{source} names position {position}; its canvas has {len(case.positions)}")


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Case)
