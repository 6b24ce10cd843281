"""surelock: exact, fast decoding of masked diffusion language models that never computes a converged token again.

from surelock import LLM, SamplingParams
print(LLM().generate("Once upon a time", SamplingParams(max_tokens=64))[0].text)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from surelock.engine.host_cpu import prepare_openmp

if TYPE_CHECKING:
    from surelock.config import EngineConfig
    from surelock.errors import SureLockError
    from surelock.llm import LLM
    from surelock.output import RequestOutput, RequestStats, StepUpdate
    from surelock.params import LockParams, SamplingParams

__all__ = [
    "LLM",
    "EngineConfig",
    "LockParams",
    "RequestOutput",
    "RequestStats",
    "SamplingParams",
    "StepUpdate",
    "SureLockError",
]

prepare_openmp()

_HOMES = {
    "EngineConfig": "surelock.config",
    "LLM": "surelock.llm",
    "LockParams": "surelock.params",
    "RequestOutput": "surelock.output",
    "RequestStats": "surelock.output",
    "SamplingParams": "surelock.params",
    "StepUpdate": "surelock.output",
    "SureLockError": "surelock.errors",
}


def __getattr__(name: str) -> Any:
    # Looked up on first use: torch takes seconds to import, and `surelock --help` does not need it.
    if name not in _HOMES:
        raise AttributeError(f"module 'surelock' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
