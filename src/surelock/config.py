"""`EngineConfig`: what is fixed for the life of an `LLM`. What a request may choose is in `params`."""

from __future__ import annotations

from dataclasses import dataclass

from surelock.errors import ParameterError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of one `LLM`, for each of its calls.

    Args:
        max_batch_size: requests decoded at the same time; the rest wait their turn.
        cuda_graphs: on a CUDA device in half precision, run each forward as one captured graph. Tokens are the same.
        poison: fill unwritten memory with NaN, so that reading it shows. For tests.

    Raises:
        ParameterError: a value is out of its limits.
    """

    max_batch_size: int = 8
    cuda_graphs: bool = True
    poison: bool = False

    def __post_init__(self) -> None:
        size = self.max_batch_size
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1024:
            raise ParameterError(f"max_batch_size is {size!r}; it must be an integer from 1 to 1024")
