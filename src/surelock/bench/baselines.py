"""Peers timed beside the engine: adapters of ours, in `benchmarks/peers/` of a checkout, over code of theirs.

The peer's code stays where it is, is given as a path and runs in this process: pass only code you trust.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol, cast

import torch

from surelock.errors import ParameterError, shown, shown_error
from surelock.models.config import ModelConfig
from surelock.results.environment import revision

BASELINES: Final = {"official": "official", "fast-dllm": "fast_dllm", "dinfer": "dinfer"}
_PACKAGE: Final = "surelock_peers"


class Baseline(Protocol):
    """A peer with random weights of the shape that is measured.

    Attributes:
        name: as the option names it.
        facts: what a result file says about it: where the code is from, what is timed, how.
    """

    name: str
    facts: dict[str, Any]

    def step_ms(self, num_requests: int, num_prompt: int, max_tokens: int) -> float | None:
        """Mean milliseconds of one of the max_tokens steps that decode such a batch; None if it takes no such batch."""
        ...


def load_baseline(
    name: str, folder: Path, config: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> Baseline:
    """Build the peer's model; its facts say which revision of the peer's code this is.

    Raises:
        ParameterError: the name is unknown, the folder does not hold the peer's code, or this is no checkout.
    """
    if name not in BASELINES:
        raise ParameterError(f"--baseline is {shown(name)}; use one of {', '.join(BASELINES)}, then a folder")
    if not folder.is_dir():
        raise ParameterError(f"--baseline {name} {folder}: there is no such folder; pass a checkout of the peer's code")
    load = cast("Callable[..., Baseline]", _adapter(BASELINES[name]).load)
    try:
        peer = load(folder, config, device=device, dtype=dtype)
    except (ImportError, OSError, AttributeError, TypeError, SyntaxError) as error:
        raise ParameterError(
            f"--baseline {name} {folder} cannot be used: {shown_error(error)}; the adapter says which files it needs"
        ) from error
    peer.facts["revision"] = revision(folder)
    return peer


def _adapter(module: str) -> ModuleType:
    # From src/surelock/bench/ of a checkout.
    folder = Path(__file__).parents[3] / "benchmarks" / "peers"
    if not (folder / f"{module}.py").is_file():
        raise ParameterError(
            "--baseline needs surelock installed from a checkout of its repository, where the adapters are: "
            "pip install -e CHECKOUT"
        )
    if _PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            _PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[_PACKAGE])
    return importlib.import_module(f"{_PACKAGE}.{module}")


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded batch: canvases as long as the longest prompt and the most tokens of any request."""

    num_requests: int
    num_prompt: int
    max_tokens: int


def padded_batches(sizes: Sequence[tuple[int, int]], batch_size: int, *, sort: bool) -> list[Batch]:
    """Requests (prompt tokens, generated tokens) in batches, in order or sorted by generated tokens."""
    ordered = sorted(sizes, key=lambda size: size[1]) if sort else list(sizes)
    groups = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [Batch(len(group), max(p for p, _ in group), max(n for _, n in group)) for group in groups]


def padded_seconds(baseline: Baseline, batches: Sequence[Batch]) -> float | None:
    """Wall-clock of a sampler of constant cost over padded batches, one after another: measured step times, each times
    the steps of its batch. None if it takes no such batch."""
    times: dict[Batch, float | None] = {}
    for batch in batches:
        if batch not in times:
            times[batch] = baseline.step_ms(batch.num_requests, batch.num_prompt, batch.max_tokens)
    total = 0.0
    for batch in batches:
        ms = times[batch]
        if ms is None:
            return None
        total += ms * batch.max_tokens / 1000
    return total
