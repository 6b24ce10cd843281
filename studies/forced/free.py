"""Runs with and without locks that each make their own decisions: when they part, and how the difference spreads.

Changing a single token of a run without locks also changes what follows. So for each rule there is a control: no locks
at all, but in the step where the locked run first decides otherwise, its decision is forced. What the locked run
differs by beyond its control is due to the locks after that step; the rest is how sensitive decoding is anyway.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from studies.forced.paths import Path, decode_paths
from studies.forced.records import Record
from studies.study import Row
from surelock.llm import LLM
from surelock.params import LockParams, SamplingParams
from surelock.text.prompts import Prompt

# Lower ends of the bins of steps since the first difference, and of distances from it in positions.
BINS: Final = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)


def measure_free_runs(
    llm: LLM, prompts: Sequence[Sequence[int]], params: SamplingParams, lock: LockParams, record: Record
) -> None:
    """Add a row for each prompt, and what they add up to, to the record."""
    starts: list[Prompt] = [{"prompt_token_ids": list(ids)} for ids in prompts]
    unlocked = decode_paths(llm, starts, replace(params, lock=None))
    locked = decode_paths(llm, starts, replace(params, lock=lock))
    parted = [first_difference(a, b) for a, b in zip(unlocked, locked, strict=True)]
    controls = _controls(llm, locked, parted, params)
    for index, (a, b, step) in enumerate(zip(unlocked, locked, parted, strict=True)):
        control = controls.get(index)
        record.free.append(_row(index, a, b, control, step))
        if step is not None:
            for kind, path in (("locked", b), ("control", control)):
                if path is not None:
                    _add_spread(record, kind, index, a, path, step)


def first_difference(a: Path, b: Path) -> int | None:
    """The first step in which the two unmask other positions or write other tokens."""
    pairs = zip(a.tokens, a.step, b.tokens, b.step, strict=True)
    return min((min(i, j) for x, i, y, j in pairs if i != j or x != y), default=None)


def _controls(
    llm: LLM, locked: Sequence[Path], parted: Sequence[int | None], params: SamplingParams
) -> dict[int, Path]:
    """Of each prompt whose runs part, the run without locks that follows the locked one up to that step."""
    if params.block_length is not None and params.block_length < params.max_tokens:
        # What is left of a run with several blocks is not a request.
        return {}
    controls: dict[int, Path] = {}
    indices: list[int] = []
    starts: list[Prompt] = []
    rest: list[SamplingParams] = []
    for index, (path, step) in enumerate(zip(locked, parted, strict=True)):
        if step is None:
            continue
        num_left = (params.steps or params.max_tokens) - step
        canvas = [token if at <= step else None for token, at in zip(path.tokens, path.step, strict=True)]
        if any(token is not None and token >= llm.config.vocab_size for token in canvas):
            # An unused row of the head won: no prompt may hold such an id.
            continue
        if None in canvas:
            indices.append(index)
            starts.append({"canvas_token_ids": canvas})
            rest.append(replace(params, max_tokens=0, steps=num_left, block_length=None, lock=None))
        else:
            controls[index] = path
    paths = decode_paths(llm, starts, rest) if starts else []
    for index, path in zip(indices, paths, strict=True):
        shared, step = locked[index].step, parted[index] or 0
        steps = [step + late if late else early for late, early in zip(path.step, shared, strict=True)]
        controls[index] = Path(path.tokens, steps, 1.0)
    return controls


def _row(prompt: int, unlocked: Path, locked: Path, control: Path | None, step: int | None) -> Row:
    generated = [position for position, at in enumerate(unlocked.step) if at]
    rewritten = any(
        i == j == step and x != y
        for x, i, y, j in zip(unlocked.tokens, unlocked.step, locked.tokens, locked.step, strict=True)
    )

    def agreement(path: Path | None) -> float | None:
        if path is None:
            return None
        return sum(unlocked.tokens[p] == path.tokens[p] for p in generated) / len(generated)

    return {
        "prompt": prompt, "first_difference": step,
        "difference": None if step is None else "token" if rewritten else "order", "agreement": agreement(locked),
        "control_agreement": 1.0 if step is None else agreement(control), "active_ratio": locked.active_ratio,
    }  # fmt: skip


def _add_spread(record: Record, kind: str, prompt: int, unlocked: Path, path: Path, step: int) -> None:
    """Count the tokens that differ, by steps since the first difference and by positions from it."""
    source = [
        position
        for position, (x, i, y, j) in enumerate(
            zip(unlocked.tokens, unlocked.step, path.tokens, path.step, strict=True)
        )
        if step in (i, j) and (i != j or x != y)
    ]
    for position, at in enumerate(path.step):
        if at < step:
            continue
        distance = min((abs(position - other) for other in source), default=0)
        for table, value in ((record.growth, at - step), (record.spread, distance)):
            total = table[kind, BINS[bisect_right(BINS, value) - 1]]
            total.add(prompt, int(path.tokens[position] != unlocked.tokens[position]), 1)
