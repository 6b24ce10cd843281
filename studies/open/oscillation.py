"""Near-synonym oscillation: positions whose likeliest token alternates although they look stable, and locks there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import numpy as np
import torch

from studies.bench import Bench, Canvas, Length, lengths
from studies.decoders import batches_of
from studies.forced.measure import freeze_only
from studies.forced.oscillation import NEAR_TIE, STATES, Array, History, Likeness, Moves
from studies.forced.records import group_columns
from studies.plots import Panel, Plot, Points
from studies.study import Cell, Row, Rows, Settings, Study, Table, average, grouped, quantile
from surelock.measure.forced.lockstep import ForcedStep, teacher_forced
from surelock.measure.instrumented import InstrumentedDecoder
from surelock.measure.instrumented.forward import Frozen
from surelock.params import LockParams

RULES: Final = {"permanent": LockParams.permanent(), "paper": LockParams.paper()}
THRESHOLD: Final = LockParams.permanent().kl_threshold
# Upper ends of the bins of KL.
KL_BINS: Final = (1e-7, 1e-6, 1e-5, 1e-4, THRESHOLD, 5e-3, 5e-2, np.inf)


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """One cell: rows are summed over all prompts."""
    prompts = bench.mixed(settings.num_prompts)
    fits = bench.fitting(settings.lengths[:1], prompts)
    return [Cell(f"N_gen/steps {each}", partial(measure, bench, prompts, each, settings)) for each in fits]


def measure(bench: Bench, prompts: Sequence[Canvas], length: Length, settings: Settings) -> Rows:
    """Without locks which positions alternate, then what freezing just those does."""
    model, done = bench.llm.transformer, 0
    parts: defaultdict[str, list[Moves]] = defaultdict(list)
    flips: defaultdict[str, list[Array]] = defaultdict(list)
    frozen: list[Row] = []
    decoder = InstrumentedDecoder(model, keep_keys_values=True)
    for batch in batches_of(decoder, prompts, length.num_generated, len(RULES) + 2):
        canvases, history = [prompts[index] for index in batch], History()
        bench.show(done / len(prompts), f"{done} of {len(prompts)} prompts")
        for step in decoder.steps(canvases, length.params):
            history.take(step, model.config.mask_token_id)
        for state in STATES:
            parts[state].append(history.moves(state))
            possible = history.given if state == "prompt" else ~history.given
            flips[state].append(history.flips_in(state).sum(0)[possible])
        steps = teacher_forced(model, canvases, length.params, RULES)
        frozen += _freeze_classes(history, steps, settings.group_every, batch)
        done += len(batch)
    likeness = Likeness.of(model)
    moves = {state: Moves(*map(np.concatenate, zip(*parts[state], strict=True))) for state in STATES}
    harm = sorted(grouped(frozen, "rule", "source", "class"), key=lambda item: (list(RULES).index(item[0][0]), item[0]))
    return {
        "oscillation": [_state(state, moves[state], np.concatenate(flips[state]), likeness) for state in STATES],
        "oscillation_kl": [row for state in STATES for row in _bins(state, moves[state])],
        "oscillation_harm": [
            {"rule": rule, "source": source, "class": name, **group_columns(rows)}
            for (rule, source, name), rows in harm
        ],
    }  # fmt: skip


def _freeze_classes(
    history: History, steps: Iterator[ForcedStep], every: int, prompts: Sequence[int]
) -> Iterator[Row]:  # fmt: skip
    """What only one class of locks does, in every so many steps."""
    # [T + 1, B, N]: flips up to each step, 0 before the first.
    flips = history.flips_in("generated") + history.flips_in("prompt")
    so_far = np.concatenate((np.zeros_like(flips[:1], dtype=np.int64), flips.cumsum(0)))
    near_ties = history.tops.ratio >= NEAR_TIE
    for step in steps:
        for rule, side in step.sides.items() if step.step % every == 0 else ():
            at, kv = side.locks.at.cpu().numpy(), side.kv
            later = so_far[-1] - np.take_along_axis(so_far, at[None], 0)[0]
            tied = np.take_along_axis(near_ties, np.maximum(at - 1, 0)[None], 0)[0]
            classes = {
                "steady": later == 0, "changes once": later == 1, "alternates": later > 1,
                "near tie when locked": tied, "no tie when locked": ~tied,
            }  # fmt: skip
            for source, given in (("prompt", step.given), ("generated", ~step.given)):
                for name, of_class in classes.items():
                    where = side.frozen & given & torch.as_tensor(of_class, device=given.device)
                    for row in freeze_only(step, Frozen(where, kv), prompts):
                        yield {"rule": rule, "source": source, "class": name, **row}


def _state(state: str, moves: Moves, num_flips: Array, likeness: Likeness) -> Row:
    flipped, small = moves.flipped, moves.kl <= THRESHOLD
    random = np.random.default_rng(0).permutation(moves.now)
    pairs = {"flips": flipped, "stable_flips": flipped & small}
    cosines = {name: likeness(moves.before[which], moves.now[which]) for name, which in pairs.items()}
    cosines["random_pairs"] = likeness(random[random != moves.now], moves.now[random != moves.now])
    return {
        "state": state, "rows": len(flipped), "flips": int(flipped.sum()), "flip_rate": average(flipped),
        "near_tie_share": average(moves.near_tie), "swapped_share": average(moves.swapped[flipped]),
        "returned_share": average(moves.returned[flipped]), "stable_flips": int((flipped & small).sum()),
        "stable_flip_rate": average(flipped[small]), "stable_share_of_flips": average(small[flipped]),
        "kl_median_of_flips": quantile(moves.kl[flipped], 0.5), "positions": len(num_flips),
        "positions_that_change": average(num_flips >= 1), "positions_that_alternate": average(num_flips >= 2),
        **{f"cosine_of_{name}": quantile(values, 0.5) for name, values in cosines.items()},
    }  # fmt: skip


def _bins(state: str, moves: Moves) -> list[Row]:
    place = np.searchsorted(KL_BINS, moves.kl)
    ends = [float(end) if np.isfinite(end) else None for end in KL_BINS]
    return [
        {
            "state": state, "kl_up_to": end, "rows": int((place == index).sum()),
            "flips": int(moves.flipped[place == index].sum()), "flip_rate": average(moves.flipped[place == index]),
            "near_tie_share": average(moves.near_tie[place == index]),
        }
        for index, end in enumerate(ends)
    ]  # fmt: skip


STUDY = Study(
    name="oscillation", title="Do positions that alternate between near-synonyms lock, and does that hurt?",
    method="Without locks, the likeliest token of every row in every step (MASK left out) and KL(p_t || p_(t-1)). A "
    "row that changes its likeliest token makes a flip; it returns if the token is that of two steps before. A near "
    "tie is a runner-up with at least half of the likeliest token's probability. Then the same decisions are repeated "
    "with locks, and in every step that {group_every} divides only those locks are frozen whose row, without locks, "
    "keeps its likeliest token after the lock, changes it once, or alternates: what such a lock does is the divergence "
    "of the masked rows from no lock.",
    settings={"num_prompts": 64, "lengths": lengths(64), "group_every": 4},
    quick={"num_prompts": 4, "lengths": lengths(24), "group_every": 6},
    grid=grid,
    tables=(
        Table("oscillation", "Rows without locks. Stable: of rows that pass the permanent rule's test."),
        Table("oscillation_kl", columns=None),
        Table("oscillation_harm", "Only one class of locks frozen; a 95 % bootstrap interval over sequences."),
    ),
    plots=(
        Plot("oscillation", "How often the likeliest token changes, by how far the posterior moved; and divergence of "
             "the masked rows with one class of locks frozen, per lock.",
            Panel("oscillation_kl", "kl_up_to", "flip_rate", "state", log="x"),
            Points("oscillation_harm", "rule source class", "kl_per_lock", log="x"),
        ),
    ),
)  # fmt: skip
