"""How much is generated in how many steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surelock.errors import ParameterError, shown
from surelock.params import MAX_STEPS


@dataclass(frozen=True, slots=True, order=True)
class Length:
    """N_gen masked positions, denoised in so many steps."""

    num_generated: int
    steps: int

    def __str__(self) -> str:
        return f"{self.num_generated}/{self.steps}"

    def masked_floor(self, num_prompt: int) -> float:
        """The least active ratio any locking can reach: masks must be computed. (N_gen + 1) / (2 N) at steps = N_gen.

        Exact where the steps divide N_gen.
        """
        return self.num_generated * (self.steps + 1) / (2 * self.steps * (num_prompt + self.num_generated))

    def unscripted(self, num_prompt: int, limit: int) -> str | None:
        """Why a run of this length and so long a prompt has no script, of a model for limit positions; None if it has.

        Scripts are those of `surelock.bench.schedules`.
        """
        if self.steps != self.num_generated:
            return "scripts assume one token a step"
        num_positions = num_prompt + self.num_generated
        return f"{num_positions} positions; the model's limit is {limit}" if num_positions > limit else None


def of(*each: int | tuple[int, int]) -> tuple[Length, ...]:
    """Lengths from numbers (as many steps as tokens) and pairs."""
    return tuple(Length(one, one) if isinstance(one, int) else Length(*one) for one in each)


def parse_lengths(option: str, text: str) -> tuple[Length, ...]:
    """From 64,128/64,256: N_gen, and the steps where they are not as many.

    Raises:
        ParameterError: it is something else.
    """
    found = []
    for part in text.split(","):
        tokens, slash, steps = part.strip().partition("/")
        numbers = [tokens, steps if slash else tokens]
        if not all(number.isdecimal() and len(number) <= 6 and int(number) for number in numbers):
            raise ParameterError(f"{option} holds {shown(part)}; write N_gen or N_gen/steps: 64,128/64")
        length = Length(int(numbers[0]), int(numbers[1]))
        if length.steps > min(length.num_generated, MAX_STEPS):
            raise ParameterError(f"{option} holds {shown(part)}; there are more steps than tokens: lower the steps")
        found.append(length)
    return tuple(found)


def longest(prompts: Sequence[Sequence[object]]) -> int:
    """Tokens of the longest prompt."""
    return max(len(prompt) for prompt in prompts)
