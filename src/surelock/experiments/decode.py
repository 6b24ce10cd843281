"""Canvases to outputs, as many at a time as the device takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from surelock.assemble import request_output
from surelock.config import EngineConfig
from surelock.engine.engine import Engine
from surelock.errors import NonFiniteLogitsError
from surelock.experiments.result import Progress

if TYPE_CHECKING:
    from surelock.decoding.protocols import RowSelector
    from surelock.llm import LLM
    from surelock.output import RequestOutput
    from surelock.params import SamplingParams

# Launching a step costs a GPU more than the rows of a small model do, so many requests share one; what does not fit the
# memory is lowered by the engine.
WIDE: Final = EngineConfig(max_batch_size=512, max_rows=1 << 17)


def decode(
    llm: LLM,
    prompts: Sequence[Sequence[int]],
    params: Sequence[SamplingParams],
    *,
    selector: RowSelector | None = None,
    progress: Progress,
) -> list[RequestOutput]:
    """The output of each prompt, all decoded together.

    Args:
        selector: which active rows are computed; None for all.

    Raises:
        NonFiniteLogitsError: the model's output was not finite.
    """
    engine = Engine(llm.transformer, llm.engine_config, selector=selector)
    requests = [engine.add_request(prompt, own) for prompt, own in zip(prompts, params, strict=True)]
    outputs = {}
    while engine.has_unfinished:
        for snapshot in engine.step(watched=False):
            outputs[snapshot.request] = request_output(snapshot, llm.config, llm.tokenizer)
            progress(f"{len(outputs)} of {len(requests)} prompts")
    found = [outputs[request] for request in requests]
    if any(output.finish_reason == "error" for output in found):
        raise NonFiniteLogitsError(
            "the model's logits were NaN or infinite: check the weights or use --dtype float32", found
        )
    return found
