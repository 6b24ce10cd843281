"""Finished runs by the step that unmasked each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surelock.llm import LLM
from surelock.params import SamplingParams
from surelock.text.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Path:
    """A finished run of one prompt: its canvas, the 1-based step that unmasked each position (0: given), r-bar."""

    tokens: list[int]
    step: list[int]
    active_ratio: float


def decode_paths(llm: LLM, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Path]:
    """Decode with the engine, all prompts together."""
    step_of: list[dict[int, int]] = [{} for _ in prompts]
    paths: dict[int, Path] = {}
    for update in llm.stream(list(prompts), params):
        step_of[update.index].update(dict.fromkeys(update.committed, update.step))
        if update.output is not None:
            canvas = update.output.canvas_token_ids
            steps = [step_of[update.index].get(position, 0) for position in range(len(canvas))]
            paths[update.index] = Path(canvas, steps, update.output.stats.active_ratio)
    return [paths[index] for index in range(len(prompts))]
