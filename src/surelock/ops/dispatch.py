"""Which implementation of an op runs: plain PyTorch on a CPU; Triton, or torch's own fused kernel, on a CUDA device.

The choice is made once for each type of device and is what `surelock doctor` reports. SURELOCK_OPS=reference in the
environment forces plain PyTorch everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Final, ParamSpec, TypeVar

import torch
from torch import Tensor

# Folders of the ops that have a twin in triton.py.
TRITON_OPS: Final = ("add_norm", "rope_store", "row_attention", "step_kl", "swiglu", "take_top", "token_stats")

P = ParamSpec("P")
T = TypeVar("T")


def is_fast(device: torch.device) -> bool:
    """Whether tensors on this device take the fast implementations."""
    return _is_fast(device.type)


@cache
def _is_fast(device_type: str) -> bool:
    forced = os.environ.get("SURELOCK_OPS") == "reference"
    return device_type == "cuda" and not forced and find_spec("triton") is not None


def choose(op: str, reference: Callable[P, T]) -> Callable[P, T]:
    """An op of folder `op`: `reference`, or the function of that name in triton.py, by the first argument's device."""

    @cache
    def fast() -> Callable[P, T]:
        # Imported on first use: triton is not there on every machine.
        function: Callable[P, T] = getattr(import_module(f"surelock.ops.{op}.triton"), reference.__name__)
        return function

    @wraps(reference)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        first = args[0]
        assert isinstance(first, Tensor)
        return (fast() if is_fast(first.device) else reference)(*args, **kwargs)

    return run
