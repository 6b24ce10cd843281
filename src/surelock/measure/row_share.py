"""Requests decoded with a share of the active rows in each step, which no parameter of a request can ask for yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from surelock.assemble import request_output
from surelock.decoding.selection import ActiveShare
from surelock.engine.engine import Engine
from surelock.llm import LLM
from surelock.output import RequestOutput
from surelock.params import SamplingParams


def decode_with(
    llm: LLM,
    prompts: Sequence[Sequence[int]],
    params: Sequence[SamplingParams],
    *,
    share: float | None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[RequestOutput]:
    """The output of each prompt of token ids, all decoded together.

    Args:
        share: of the masked and of the unmasked active rows that a step computes (`ActiveShare`); None for all.
        progress: told how many prompts are done.
    """
    selector = None if share is None else ActiveShare(share)
    engine = Engine(llm.transformer, llm.engine_config, selector=selector)
    requests = [engine.add_request(prompt, own) for prompt, own in zip(prompts, params, strict=True)]
    outputs = {}
    for snapshot in engine.run(watched=False):
        outputs[snapshot.request] = request_output(snapshot, llm.config, llm.tokenizer)
        progress(len(outputs))
    return [outputs[request] for request in requests]
