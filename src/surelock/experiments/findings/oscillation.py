"""Near-synonym oscillation: positions whose likeliest token alternates although they look stable, and locks there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from surelock.eval.dense import DenseDecoder, group_canvases
from surelock.eval.twin.certainty import mean_of
from surelock.eval.twin.dense_forward import Frozen
from surelock.eval.twin.lockstep import LockedSide, TwinStep, teacher_forced
from surelock.eval.twin.measure import freeze_only
from surelock.eval.twin.oscillation import NEAR_TIE, STATES, Array, History, Likeness, Moves
from surelock.eval.twin.records import Group, RuleRecord
from surelock.experiments import per_sequence, wording
from surelock.experiments.lengths import Length
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.twin.summary import ends
from surelock.params import LockParams, SamplingParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Canvas, Workbench

RULES: Final = {"default": LockParams(), "paper": LockParams.paper()}
# Upper ends of the bins of KL; the default rule's threshold is one of them.
KL_BINS: Final = (1e-7, 1e-6, 1e-5, 1e-4, 5e-4, 5e-3, 5e-2, np.inf)
THRESHOLD: Final = LockParams().kl_threshold
# Fewer pairs of tokens say nothing about their likeness.
MIN_PAIRS: Final = 10
STEADY, ONCE, OFTEN = "steady", "changes once", "alternates"
TIED, CLEAR = "near tie when locked", "no tie when locked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        num_prompts: half of them texts, half task questions.
        lengths: N_gen and steps; only the first is measured.
        group_every: every so-manieth step is computed again with one class of locks frozen, for each class.
    """

    num_prompts: int = 64
    lengths: tuple[Length, ...] = (Length(64, 64),)
    group_every: int = 4


_QUICK: Final = Settings(num_prompts=4, lengths=(Length(24, 24),), group_every=6)


def run(bench: Workbench) -> Result:
    """Measure without locks which positions alternate, then what freezing just those does."""
    settings = bench.settings(Settings(), _QUICK)
    texts = [text.canvas for text in bench.prompts.texts((settings.num_prompts + 1) // 2)]
    # A file's questions begin with its texts.
    prompts = list(dict.fromkeys([*texts, *bench.prompts.questions(settings.num_prompts)]))[: settings.num_prompts]
    fitting, left_out = bench.fitting(settings.lengths[:1], prompts)
    moves: dict[str, list[Moves]] = {state: [] for state in STATES}
    changes: dict[str, list[Array]] = {state: [] for state in STATES}
    records = {name: RuleRecord() for name in RULES}
    for length in fitting:
        params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, ignore_eos=True, lock=None)
        _measure(bench, prompts, params, settings, moves, changes, records)
    likeness = Likeness.of(bench.llm.transformer)
    joined = {state: Moves(*map(np.concatenate, zip(*parts, strict=True))) for state, parts in moves.items() if parts}
    states = [_state_row(state, found, np.concatenate(changes[state]), likeness) for state, found in joined.items()]
    bins = [row for state, found in joined.items() for row in _bin_rows(state, found)]
    harm = _harm_rows(records)
    return Result(
        number="finding",
        name="oscillation",
        title="Do positions that alternate between near-synonyms lock, and does that hurt?",
        method=(
            "Without locks, the likeliest token of every row in every step (MASK left out) and KL(p_t || p_{t-1}). A "
            "row that changes its likeliest token makes a flip; it returns if the token is that of two steps before. "
            f"A near tie is a runner-up with at least {NEAR_TIE:g} of the likeliest token's probability. Generated "
            "rows are those that are unmasked; only they and the prompt can lock. Then the same decisions are repeated "
            "with locks, and in some steps only those locks are frozen whose row, without locks, keeps its likeliest "
            "token after the lock, changes it once, or alternates: the divergence of the masked rows from no lock is "
            "what such a lock does."
        ),
        facts=bench.facts(settings, threshold=THRESHOLD, rules=list(RULES)),
        tables=[
            Table("oscillation", "Rows without locks.", _STATE_COLUMNS, states),
            Table("oscillation_kl", "Flips by how far the posterior moved.", _BIN_COLUMNS, bins, on_page=False),
            Table("oscillation_harm", _HARM_NOTE, _HARM_COLUMNS, harm),
        ],
        pictures=[Picture("oscillation", _CAPTION, lambda: _draw(bins, harm))] if bins else [],
        findings=[*_state_findings(states), *_harm_findings(records)],
        left_out=left_out,
    )


def _measure(
    bench: Workbench,
    prompts: Sequence[Canvas],
    params: SamplingParams,
    settings: Settings,
    moves: dict[str, list[Moves]],
    changes: dict[str, list[Array]],
    records: dict[str, RuleRecord],
) -> None:
    model = bench.llm.transformer
    done = 0
    for alike in group_canvases(prompts):
        size = DenseDecoder(model, keep_keys_values=True).batch_size(len(prompts[alike[0]]) + params.max_tokens)
        size = max(1, size // (len(RULES) + 2))
        for start in range(0, len(alike), size):
            chosen = alike[start : start + size]
            batch = [prompts[index] for index in chosen]
            bench.progress(f"prompts {done + 1} to {done + len(batch)} of {len(prompts)}")
            history = History()
            for twin in teacher_forced(model, batch, params, {}):
                history.take(twin)
            for state in STATES:
                moves[state].append(history.moves(state))
                possible = history.given if state == "prompt" else ~history.given
                changes[state].append(history.num_flips(state)[possible])
            steps = teacher_forced(model, batch, params, RULES)
            _freeze_classes(history, steps, settings.group_every, records, chosen)
            done += len(batch)


def _freeze_classes(
    history: History, steps: Iterator[TwinStep], every: int, records: dict[str, RuleRecord], prompts: Sequence[int]
) -> None:
    # [T + 1, B, N]: flips up to each step, 0 before the first.
    flips = history.flips_in("generated") + history.flips_in("prompt")
    so_far = np.concatenate((np.zeros_like(flips[:1], dtype=np.int64), flips.cumsum(0)))
    near_ties = history.tops.ratio >= NEAR_TIE
    for twin in steps:
        if twin.step % every:
            continue
        for name, side in twin.sides.items():
            if bool(side.frozen.any()):
                _freeze_each(twin, side, so_far, near_ties, records[name], prompts)


def _freeze_each(
    twin: TwinStep, side: LockedSide, so_far: Array, near_ties: Array, record: RuleRecord, prompts: Sequence[int]
) -> None:
    at = side.locks.at.cpu().numpy()
    later = so_far[-1] - np.take_along_axis(so_far, at[None], 0)[0]
    tied = np.take_along_axis(near_ties, np.maximum(at - 1, 0)[None], 0)[0]
    frozen = side.frozen.cpu().numpy()
    kv = side.kv
    for source, of_source in (("prompt", twin.given.cpu().numpy()), ("generated", ~twin.given.cpu().numpy())):
        classes = {
            Group(source, STEADY): later == 0,
            Group(source, ONCE): later == 1,
            Group(source, OFTEN): later > 1,
            Group(source, TIED): tied,
            Group(source, CLEAR): ~tied,
        }
        for group, where in classes.items():
            chosen = torch.as_tensor(frozen & of_source & where, device=twin.inputs.device)
            if bool(chosen.any()):
                freeze_only(twin, record, group, Frozen(chosen, kv), prompts)


def _state_row(state: str, moves: Moves, num_flips: Array, likeness: Likeness) -> Row:
    flipped = moves.flipped
    small = moves.kl <= THRESHOLD
    random = np.random.default_rng(0).permutation(moves.now)
    others = random != moves.now
    return {
        "state": state,
        "rows": len(flipped),
        "flips": int(flipped.sum()),
        "flip_rate": _share(flipped),
        "near_tie_share": _share(moves.near_tie),
        "swapped_share": _share(moves.swapped[flipped]),
        "returned_share": _share(moves.returned[flipped]),
        "stable_flips": int((flipped & small).sum()),
        "stable_flip_rate": _share(flipped[small]),
        "stable_share_of_flips": _share(small[flipped]),
        "kl_median_of_flips": float(np.median(moves.kl[flipped])) if flipped.any() else None,
        "positions": len(num_flips),
        "positions_that_change": _share(num_flips >= 1),
        "positions_that_alternate": _share(num_flips >= 2),
        "cosine_of_flips": _median(likeness(moves.before[flipped], moves.now[flipped])),
        "cosine_of_stable_flips": _median(likeness(moves.before[flipped & small], moves.now[flipped & small])),
        "cosine_of_random_pairs": _median(likeness(random[others], moves.now[others])),
    }


def _bin_rows(state: str, moves: Moves) -> list[Row]:
    place = np.searchsorted(KL_BINS, moves.kl)
    rows = []
    for index, end in enumerate(KL_BINS):
        here = place == index
        rows.append(
            {
                "state": state,
                "kl_up_to": float(end) if np.isfinite(end) else None,
                "rows": int(here.sum()),
                "flips": int(moves.flipped[here].sum()),
                "flip_rate": _share(moves.flipped[here]),
                "near_tie_share": _share(moves.near_tie[here]),
            }
        )
    return rows


def _harm_rows(records: dict[str, RuleRecord]) -> list[Row]:
    return [
        {
            "rule": name,
            "source": group.axis,
            "class": group.name,
            "locks": total.num_locks,
            "canvas_steps": total.num_steps,
            "kl_per_lock": total.kl_sum / total.num_locks,
            **ends("kl_per_lock", mean_of(total.per_lock)),
            "flip_rate": total.num_flips / max(total.num_rows, 1),
        }
        for name, record in records.items()
        for group, total in sorted(record.groups.items())
    ]


def _state_findings(states: Sequence[Row]) -> list[str]:
    sentences = []
    for row in states:
        if not row["rows"]:
            continue
        tail = ""
        if row["stable_share_of_flips"] is not None:
            tail = (
                f"; {row['swapped_share']:.0%} of these flips go to the runner-up, {row['returned_share']:.0%} return "
                f"to the token of two steps before, and {row['stable_share_of_flips']:.1%} happen at a KL of at most "
                f"{wording.threshold(THRESHOLD)}"
            )
        sentences.append(
            f"{row['state'].capitalize()} rows: {row['flip_rate']:.2%} change their likeliest token from one step to "
            f"the next ({row['near_tie_share']:.1%} of all are near ties), {row['positions_that_alternate']:.1%} of "
            f"the positions do so twice or more{tail}."
        )
        if row["stable_flips"] >= MIN_PAIRS and row["cosine_of_random_pairs"] is not None:
            sentences.append(
                f"The two tokens of a {row['state']} flip that passes the KL test have a cosine of "
                f"{row['cosine_of_stable_flips']:.2f} in the head (median), random pairs of likeliest tokens "
                f"{row['cosine_of_random_pairs']:.2f}: "
                + (
                    "they are more alike than chance, which does not make them synonyms."
                    if row["cosine_of_stable_flips"] > row["cosine_of_random_pairs"] + 0.05
                    else "they are no more alike than chance."
                )
            )
    return sentences


def _harm_findings(records: dict[str, RuleRecord]) -> list[str]:
    sentences = []
    for rule, record in records.items():
        for source in ("generated", "prompt"):
            found = {group.name: total.per_lock for group, total in record.groups.items() if group.axis == source}
            if OFTEN in found and STEADY in found:
                often, steady = found[OFTEN], found[STEADY]
                share = often.number / sum(found[name].number for name in (STEADY, ONCE, OFTEN) if name in found)
                sentences.append(
                    f"{rule}, {source} locks: {share:.1%} of the frozen rows alternate later; each of these costs the "
                    f"masked rows {per_sequence.mean(often)} nats a step, a steady one {per_sequence.mean(steady)}: "
                    f"{per_sequence.compared(often, steady)}."
                )
            if TIED in found and CLEAR in found:
                tied, clear = found[TIED], found[CLEAR]
                share = tied.number / (tied.number + clear.number)
                sentences.append(
                    f"{rule}, {source} locks made in a near tie ({share:.1%}) cost {per_sequence.mean(tied)} nats each "
                    f"a step, the others {per_sequence.mean(clear)}: {per_sequence.compared(tied, clear)}."
                )
    return sentences


def _draw(bins: Sequence[Row], harm: Sequence[Row]) -> Figure:
    from surelock.experiments import style

    figure, ((left, right),) = style.axes_grid(1, 2, height=4.2, width=9.0)
    labels = [f"≤ {wording.threshold(end)}" if np.isfinite(end) else "more" for end in KL_BINS]
    for index, state in enumerate(STATES):
        rows = [row for row in bins if row["state"] == state]
        points = [(place, 100 * row["flip_rate"]) for place, row in enumerate(rows) if row["rows"]]
        if points:
            left.plot(*zip(*points, strict=True), color=style.SERIES[index], marker=style.MARKERS[index], label=state)
    left.axvline(KL_BINS.index(THRESHOLD) + 0.5, color=style.QUIET, linestyle=style.DASHED, linewidth=1)
    left.annotate(
        "passes", (KL_BINS.index(THRESHOLD) + 0.45, 0.96), xycoords=("data", "axes fraction"), ha="right", fontsize=8,
        color=style.QUIET,
    )  # fmt: skip
    left.set_xticks(range(len(labels)), labels, rotation=45)
    left.set_ylim(bottom=0)
    left.set_xlabel("KL to the step before, nats")
    left.set_ylabel("% of rows whose likeliest token changed")
    names = list(dict.fromkeys((row["source"], row["class"]) for row in harm))
    for index, rule in enumerate(dict.fromkeys(row["rule"] for row in harm)):
        rows = [row for row in harm if row["rule"] == rule and row["kl_per_lock"] > 0]
        places = [names.index((row["source"], row["class"])) + 0.3 * (index - 0.5) for row in rows]
        right.plot(
            [row["kl_per_lock"] for row in rows], places, linestyle="", marker=style.MARKERS[index + 3],
            color=style.SERIES[index + 3], label=f"{rule} rule",
        )  # fmt: skip
        for row, place in zip(rows, places, strict=True):
            style.interval(right, row["kl_per_lock_low"], row["kl_per_lock_high"], place, style.SERIES[index + 3])
    right.set_yticks(range(len(names)), [f"{source}: {name}" for source, name in names], fontsize=8)
    right.set_ylim(max(len(names), 1) - 0.5, -0.5)
    if any(row["kl_per_lock"] > 0 for row in harm):
        right.set_xscale("log")
    right.set_xlabel("KL of masked rows per frozen lock, nats")
    style.legend_below(figure, [left, right], columns=5)
    return figure


def _share(where: Array) -> float | None:
    return float(where.mean()) if len(where) else None


def _median(values: Array) -> float | None:
    return float(np.median(values)) if len(values) else None


_CAPTION: Final = (
    "Left: how often the likeliest token changes, by how far the posterior moved; what is left of the dashed line "
    "passes the default rule's test. Right: divergence of the masked rows with one class of locks frozen, per lock, "
    "with its 95 % interval."
)
_HARM_NOTE: Final = "Only one class of locks frozen. KL per lock with a 95 % bootstrap interval over sequences."
_PERCENT, _SMALL = "{:.2%}", "{:.2g}"
_STATE_COLUMNS: Final = (
    Column("state", "rows"),
    Column("rows", "number", "{:,}"),
    Column("flips"),
    Column("flip_rate", "flips", _PERCENT),
    Column("near_tie_share", "near ties", _PERCENT),
    Column("swapped_share", "to the runner-up", "{:.0%}"),
    Column("returned_share", "returning", "{:.0%}"),
    Column("stable_flips"),
    Column("stable_flip_rate", "flips of rows that pass", _PERCENT),
    Column("stable_share_of_flips", "flips that pass", "{:.1%}"),
    Column("kl_median_of_flips", "KL of flips, median", _SMALL),
    Column("positions", "positions", "{:,}"),
    Column("positions_that_change", "that change", "{:.1%}"),
    Column("positions_that_alternate", "that alternate", "{:.1%}"),
    Column("cosine_of_flips", "cosine of the two", "{:.2f}"),
    Column("cosine_of_stable_flips", "if it passes", "{:.2f}"),
    Column("cosine_of_random_pairs", "random pairs", "{:.2f}"),
)
_BIN_COLUMNS: Final = tuple(
    Column(name) for name in ("state", "kl_up_to", "rows", "flips", "flip_rate", "near_tie_share")
)
_HARM_COLUMNS: Final = (
    Column("rule", "rule"),
    Column("source", "locks of"),
    Column("class", "class"),
    Column("locks", "frozen rows read", "{:,}"),
    Column("canvas_steps"),
    Column("kl_per_lock", "KL per lock", _SMALL),
    Column("kl_per_lock_low", "95 % from", _SMALL),
    Column("kl_per_lock_high", "to", _SMALL),
    Column("flip_rate", "flips of masked rows", _PERCENT),
)

FINDING: Final = Experiment("finding", "oscillation", "Near-synonym oscillation", run)
