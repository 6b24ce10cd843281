"""`EngineConfig`: what is fixed for the life of an `LLM`. What a request may choose is in `params`."""

from __future__ import annotations

from dataclasses import dataclass

from surelock.errors import ParameterError, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of one `LLM`, for each of its calls.

    Args:
        max_batch_size: requests decoded at the same time; the rest wait their turn.
        max_rows: positions computed in one step of all requests, both streams of guidance counted; requests wait until
            theirs fit, and one that has more runs alone. None: as many as a device is busy with (4096).
        memory_fraction: of the memory free when the engine starts (the GPU's, or on a CPU the machine's), how much
            it may use, from above 0 to 1.
        cuda_graphs: on a CUDA device in half precision, run each forward as one captured graph. Rows are padded to its
            size, so sums may round otherwise, as in any other batch.
        max_graphs: captured graphs kept at the same time.
        num_threads: threads of torch's operations on a CPU. An `LLM` on a CPU sets it for the whole process when it is
            made. None: leave it as it is, which by default is one for each physical core that this process may use,
            where torch was not imported before surelock; `surelock doctor` says whether it is more.
        poison: fill unwritten memory with NaN, so that reading it shows. For tests.

    Raises:
        ParameterError: a value is out of its limits.
    """

    max_batch_size: int = 16
    max_rows: int | None = None
    memory_fraction: float = 0.9
    cuda_graphs: bool = True
    max_graphs: int = 256
    num_threads: int | None = None
    poison: bool = False

    def __post_init__(self) -> None:
        _check_int("max_batch_size", self.max_batch_size, 1024)
        if self.max_rows is not None:
            _check_int("max_rows", self.max_rows, 1 << 20)
        fraction = self.memory_fraction
        # NaN fails every comparison.
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise ParameterError(f"memory_fraction is {shown(fraction)}; it must be a number above 0, up to 1")
        _check_int("max_graphs", self.max_graphs, 1 << 16)
        if self.num_threads is not None:
            _check_int("num_threads", self.num_threads, 1024)
        for name, value in (("cuda_graphs", self.cuda_graphs), ("poison", self.poison)):
            if not isinstance(value, bool):
                raise ParameterError(f"{name} is {shown(value)}; it must be true or false")


def _check_int(name: str, value: object, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise ParameterError(f"{name} is {shown(value)}; it must be an integer from 1 to {high}")
