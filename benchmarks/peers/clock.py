"""Milliseconds from one forward of a peer's sampler to the next, everything in between included."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


class _EnoughError(Exception):
    """Leaves the sampler once the last forward has been timed."""


def step_ms(model: Any, run: Callable[[], object], *, num_warm_up: int, num_timed: int, device: torch.device) -> float:
    """Mean milliseconds of num_timed steps of `run`, or as many as it has, after num_warm_up.

    A step begins with a call of the model and ends where the next one begins, or with the run.

    Raises:
        RuntimeError: the run has no more steps than the warm-up.
    """
    times: list[float] = []
    num_calls = 0

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def on_call(*_: object) -> None:
        nonlocal num_calls
        if num_calls in (num_warm_up, num_warm_up + num_timed):
            times.append(now())
            if len(times) == 2:
                raise _EnoughError
        num_calls += 1

    hook = model.register_forward_pre_hook(on_call)
    try:
        run()
        times.append(now())
    except _EnoughError:
        pass
    finally:
        hook.remove()
    if len(times) < 2:
        raise RuntimeError(f"the peer ran {num_calls} steps; more than {num_warm_up} are needed")
    return 1000 * (times[1] - times[0]) / (num_calls - num_warm_up)
