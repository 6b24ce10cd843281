"""Many settings decoded as one batch: small runs one after another would leave a device idle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from surelock.experiments.decode import decode

if TYPE_CHECKING:
    from surelock.experiments.workbench import Canvas, Workbench
    from surelock.output import RequestOutput
    from surelock.params import SamplingParams

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Run:
    """Prompts and the parameters of each."""

    prompts: Sequence[Canvas]
    params: Sequence[SamplingParams]


def decode_together(bench: Workbench, runs: Mapping[Key, Run]) -> dict[Key, list[RequestOutput]]:
    """The outputs of each run, in the order of its prompts.

    Raises:
        NonFiniteLogitsError: the model's output was not finite.
    """
    requests = [
        (prompt, params) for run in runs.values() for prompt, params in zip(run.prompts, run.params, strict=True)
    ]
    # The longest first, so that the batch is full until its end.
    order = sorted(range(len(requests)), key=lambda index: -_steps(requests[index][1]))
    outputs = decode(
        bench.llm,
        [requests[index][0] for index in order],
        [requests[index][1] for index in order],
        progress=bench.progress,
    )
    of_request = dict(zip(order, outputs, strict=True))
    found, start = {}, 0
    for key, run in runs.items():
        found[key] = [of_request[index] for index in range(start, start + len(run.prompts))]
        start += len(run.prompts)
    return found


def active_ratio(outputs: Sequence[RequestOutput]) -> float:
    """Rows computed over all rows, of all outputs together."""
    possible = sum(output.stats.steps * len(output.canvas_token_ids) for output in outputs)
    return sum(sum(output.stats.active_rows) for output in outputs) / possible


def _steps(params: SamplingParams) -> int:
    return params.max_tokens if params.steps is None else params.steps
