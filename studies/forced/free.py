"""Runs with and without locks that each make their own decisions: when they part, and how the difference spreads.

Changing a single token of a run without locks also changes what follows. So for each rule there is a control: no locks
at all, but in the step where the locked run first decides otherwise, its decision is forced. What the locked run
differs by beyond its control is due to the locks after that step; the rest is how sensitive decoding is anyway.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from studies.forced.records import Record
from studies.study import Row
from surelock.llm import LLM
from surelock.params import LockParams, SamplingParams
from surelock.text.prompts import Prompt

# Lower ends of the bins of steps since the first difference, and of distances from it in positions.
BINS: Final = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)


class Path(NamedTuple):
    """A finished run of one prompt: its canvas, the 1-based step that unmasked each position (0: given), r-bar."""

    tokens: list[int]
    step: list[int]
    active_ratio: float


def decode_paths(llm: LLM, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Path]:
    """Decode with the engine, all prompts together."""
    step_of: list[dict[int, int]] = [{} for _ in prompts]
    paths: dict[int, Path] = {}
    for update in llm.stream(list(prompts), params):
        own = step_of[update.index]
        own.update(dict.fromkeys(update.committed, update.step))
        if update.output is not None:
            canvas = update.output.canvas_token_ids
            steps = [own.get(position, 0) for position in range(len(canvas))]
            paths[update.index] = Path(canvas, steps, update.output.stats.active_ratio)
    return [paths[index] for index in range(len(prompts))]


def measure_free_runs(
    llm: LLM, prompts: Sequence[Sequence[int]], params: SamplingParams, lock: LockParams, record: Record
) -> None:
    """Add a row for each prompt, and for each token that follows its first difference, to the record."""
    starts: list[Prompt] = [{"prompt_token_ids": list(ids)} for ids in prompts]
    unlocked, locked = (decode_paths(llm, starts, replace(params, lock=each)) for each in (None, lock))
    parted = [first_difference(a, b) for a, b in zip(unlocked, locked, strict=True)]
    controls = _controls(llm, locked, parted, params)
    for index, (a, b, step) in enumerate(zip(unlocked, locked, parted, strict=True)):
        control = controls.get(index)
        record.free.append({"prompt": index, **_summary(a, b, control, step)})
        for run, path in (("locked", b), ("control", control)):
            if step is not None and path is not None:
                record.spread += [{"run": run, "prompt": index, **row} for row in _spread(a, path, step)]


def differences(a: Path, b: Path) -> dict[int, int]:
    """The positions that the two unmask in other steps or write other tokens to: the first step of either."""
    both = enumerate(zip(a.tokens, a.step, b.tokens, b.step, strict=True))
    return {position: min(i, j) for position, (x, i, y, j) in both if i != j or x != y}


def first_difference(a: Path, b: Path) -> int | None:
    """The first step in which the two unmask other positions or write other tokens."""
    return min(differences(a, b).values(), default=None)


def _controls(
    llm: LLM, locked: Sequence[Path], parted: Sequence[int | None], params: SamplingParams
) -> dict[int, Path]:
    """Of each prompt whose runs part, the run without locks that follows the locked one up to that step."""
    controls: dict[int, Path] = {}
    starts: dict[int, Prompt] = {}
    rest: list[SamplingParams] = []
    for index, (path, step) in enumerate(zip(locked, parted, strict=True)):
        canvas = [token if at <= (step or 0) else None for token, at in zip(path.tokens, path.step, strict=True)]
        # If an unused row of the head won: no prompt may hold such an id.
        if step is None or any(token is not None and token >= llm.config.vocab_size for token in canvas):
            continue
        if None in canvas:
            starts[index] = {"canvas_token_ids": canvas}
            num_left = (params.steps or params.max_tokens) - step
            rest.append(replace(params, max_tokens=0, steps=num_left, block_length=None, lock=None))
        else:
            controls[index] = path
    for index, path in zip(starts, decode_paths(llm, list(starts.values()), rest) if starts else [], strict=True):
        shared, step = locked[index].step, parted[index] or 0
        steps = [step + late if late else early for late, early in zip(path.step, shared, strict=True)]
        controls[index] = Path(path.tokens, steps, 1.0)
    return controls


def _summary(unlocked: Path, locked: Path, control: Path | None, step: int | None) -> Row:
    generated = [position for position, at in enumerate(unlocked.step) if at]
    first = [position for position, at in differences(unlocked, locked).items() if at == step]
    rewritten = any(unlocked.step[position] == locked.step[position] for position in first)

    def agreement(path: Path | None) -> float | None:
        return None if path is None else sum(unlocked.tokens[p] == path.tokens[p] for p in generated) / len(generated)

    return {
        "first_difference": step, "difference": None if step is None else "token" if rewritten else "order",
        "agreement": agreement(locked), "control_agreement": 1.0 if step is None else agreement(control),
        "active_ratio": locked.active_ratio,
    }  # fmt: skip


def _spread(unlocked: Path, path: Path, step: int) -> list[Row]:
    """Each token unmasked from the first difference on: whether it differs, how many steps later and how far away."""
    source = [p for p in differences(unlocked, path) if step in (unlocked.step[p], path.step[p])]
    return [
        {
            "steps_since": _bin(at - step), "distance": _bin(min((abs(p - other) for other in source), default=0)),
            "differs": int(path.tokens[p] != unlocked.tokens[p]),
        }
        for p, at in enumerate(path.step) if at >= step
    ]  # fmt: skip


def _bin(value: int) -> int:
    return BINS[bisect_right(BINS, value) - 1]
