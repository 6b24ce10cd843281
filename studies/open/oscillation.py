"""Near-synonym oscillation: positions whose likeliest token alternates although they look stable, and locks there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from studies.bench import Bench, Canvas, Length, lengths
from studies.forced.measure import freeze_only
from studies.forced.oscillation import NEAR_TIE, STATES, Array, History, Likeness, Moves
from studies.forced.records import Group, Record
from studies.plots import Panel, Points, picture
from studies.study import Cell, Plot, Row, Rows, Study, Table
from surelock.measure.forced.lockstep import ForcedStep as TwinStep
from surelock.measure.forced.lockstep import LockedSide, teacher_forced
from surelock.measure.instrumented import InstrumentedDecoder as DenseDecoder
from surelock.measure.instrumented import group_canvases
from surelock.measure.instrumented.forward import Frozen
from surelock.params import LockParams, SamplingParams

RULES: Final = {"permanent": LockParams.permanent(), "paper": LockParams.paper()}
# Upper ends of the bins of KL; the permanent rule's threshold is one of them.
KL_BINS: Final = (1e-7, 1e-6, 1e-5, 1e-4, 5e-4, 5e-3, 5e-2, np.inf)
THRESHOLD: Final = LockParams().kl_threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Half texts and half questions; N_gen and steps, of which only the first is measured.

    group_every: in every step that it divides each class of locks is frozen on its own.
    """

    num_prompts: int = 64
    lengths: tuple[Length, ...] = lengths(64)
    group_every: int = 4


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """One cell: rows are summed over all prompts."""
    prompts = bench.mixed(settings.num_prompts)
    return [
        Cell(name=f"N_gen/steps {length}", measure=lambda length=length: measure(bench, prompts, length, settings))  # type: ignore[misc]
        for length in bench.fitting(settings.lengths[:1], prompts)
    ]


def measure(bench: Bench, prompts: Sequence[Canvas], length: Length, settings: Settings) -> Rows:
    """Without locks which positions alternate, then what freezing just those does."""
    params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, ignore_eos=True, lock=None)
    model, done = bench.llm.transformer, 0
    parts: dict[str, list[Moves]] = {state: [] for state in STATES}
    changes: dict[str, list[Array]] = {state: [] for state in STATES}
    records = {name: Record() for name in RULES}
    for alike in group_canvases(prompts):
        size = DenseDecoder(model, keep_keys_values=True).batch_size(len(prompts[alike[0]]) + params.max_tokens)
        size = max(1, size // (len(RULES) + 2))
        for start in range(0, len(alike), size):
            chosen = alike[start : start + size]
            bench.show(done / len(prompts), f"{done} of {len(prompts)} prompts")
            history = History()
            for twin in teacher_forced(model, [prompts[index] for index in chosen], params, {}):
                history.take(twin)
            for state in STATES:
                parts[state].append(history.moves(state))
                possible = history.given if state == "prompt" else ~history.given
                changes[state].append(history.num_flips(state)[possible])
            steps = teacher_forced(model, [prompts[index] for index in chosen], params, RULES)
            _freeze_classes(history, steps, settings.group_every, records, chosen)
            done += len(chosen)
    likeness = Likeness.of(bench.llm.transformer)
    moves = {state: Moves(*map(np.concatenate, zip(*each, strict=True))) for state, each in parts.items()}
    return {
        "oscillation": [_state(state, moves[state], np.concatenate(changes[state]), likeness) for state in STATES],
        "oscillation_kl": [row for state in STATES for row in _bins(state, moves[state])],
        "oscillation_harm": [
            {"rule": name, "source": group.axis, "class": group.name} | total.row()
            for name, record in records.items()
            for group, total in sorted(record.groups.items())
        ],
    }


def _freeze_classes(
    history: History, steps: Iterator[TwinStep], every: int, records: dict[str, Record], prompts: Sequence[int]
) -> None:
    # [T + 1, B, N]: flips up to each step, 0 before the first.
    flips = history.flips_in("generated") + history.flips_in("prompt")
    so_far = np.concatenate((np.zeros_like(flips[:1], dtype=np.int64), flips.cumsum(0)))
    near_ties = history.tops.ratio >= NEAR_TIE
    for twin in steps:
        for name, side in twin.sides.items():
            if twin.step % every == 0 and bool(side.frozen.any()):
                _freeze_each(twin, side, so_far, near_ties, records[name], prompts)


def _freeze_each(
    twin: TwinStep, side: LockedSide, so_far: Array, near_ties: Array, record: Record, prompts: Sequence[int]
) -> None:
    at = side.locks.at.cpu().numpy()
    later = so_far[-1] - np.take_along_axis(so_far, at[None], 0)[0]
    tied = np.take_along_axis(near_ties, np.maximum(at - 1, 0)[None], 0)[0]
    frozen, given, kv = side.frozen.cpu().numpy(), twin.given.cpu().numpy(), side.kv
    classes = {
        "steady": later == 0, "changes once": later == 1, "alternates": later > 1,
        "near tie when locked": tied, "no tie when locked": ~tied,
    }  # fmt: skip
    for source, of_source in (("prompt", given), ("generated", ~given)):
        for name, where in classes.items():
            chosen = torch.as_tensor(frozen & of_source & where, device=twin.inputs.device)
            if bool(chosen.any()):
                freeze_only(twin, record, Group(source, name), Frozen(chosen, kv), prompts)


def _state(state: str, moves: Moves, num_flips: Array, likeness: Likeness) -> Row:
    flipped, small = moves.flipped, moves.kl <= THRESHOLD
    random = np.random.default_rng(0).permutation(moves.now)
    others = random != moves.now
    return {
        "state": state, "rows": len(flipped), "flips": int(flipped.sum()), "flip_rate": _share(flipped),
        "near_tie_share": _share(moves.near_tie), "swapped_share": _share(moves.swapped[flipped]),
        "returned_share": _share(moves.returned[flipped]), "stable_flips": int((flipped & small).sum()),
        "stable_flip_rate": _share(flipped[small]), "stable_share_of_flips": _share(small[flipped]),
        "kl_median_of_flips": _median(moves.kl[flipped]), "positions": len(num_flips),
        "positions_that_change": _share(num_flips >= 1), "positions_that_alternate": _share(num_flips >= 2),
        "cosine_of_flips": _median(likeness(moves.before[flipped], moves.now[flipped])),
        "cosine_of_stable_flips": _median(likeness(moves.before[flipped & small], moves.now[flipped & small])),
        "cosine_of_random_pairs": _median(likeness(random[others], moves.now[others])),
    }  # fmt: skip


def _bins(state: str, moves: Moves) -> list[Row]:
    place, rows = np.searchsorted(KL_BINS, moves.kl), []
    for index, end in enumerate(KL_BINS):
        here = place == index
        rows.append(
            {
                "state": state, "kl_up_to": float(end) if np.isfinite(end) else None, "rows": int(here.sum()),
                "flips": int(moves.flipped[here].sum()), "flip_rate": _share(moves.flipped[here]),
                "near_tie_share": _share(moves.near_tie[here]),
            }
        )  # fmt: skip
    return rows


def _share(where: Array) -> float | None:
    return float(where.mean()) if len(where) else None


def _median(values: Array) -> float | None:
    return float(np.median(values)) if len(values) else None


STUDY: Final = Study(
    number="open",
    name="oscillation",
    title="Do positions that alternate between near-synonyms lock, and does that hurt?",
    method="Without locks, the likeliest token of every row in every step (MASK left out) and KL(p_t || p_(t-1)). A "
    "row that changes its likeliest token makes a flip; it returns if the token is that of two steps before. A near "
    "tie is a runner-up with at least half of the likeliest token's probability. Generated rows are those that are "
    "unmasked; only they and the prompt can lock. Then the same decisions are repeated with locks, and in every step "
    "that {group_every} divides only those locks are frozen whose row, without locks, keeps its likeliest token after "
    "the lock, changes it once, or alternates: the divergence of the masked rows from no lock is what such a lock "
    "does.",
    settings=Settings(),
    quick=Settings(num_prompts=4, lengths=(Length(24, 24),), group_every=6),
    grid=grid,
    tables=(
        Table("oscillation", "Rows without locks. Stable: of rows that pass the permanent rule's test."),
        Table("oscillation_kl", columns=None),
        Table("oscillation_harm", "Only one class of locks frozen; a 95 % bootstrap interval over sequences."),
    ),
    plots=(
        Plot("oscillation", "How often the likeliest token changes, by how far the posterior moved; and divergence of "
             "the masked rows with one class of locks frozen, per lock.", picture(
            Panel("oscillation_kl", "kl_up_to", "flip_rate", "state", log="x"),
            Points("oscillation_harm", "rule source class", "kl_per_lock", log="x"),
        )),
    ),
)  # fmt: skip
