"""Is the movement of keys and values, which needs no LM head, a better reason to lock than that of the posterior?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch

from surelock.eval.dense import DenseDecoder, DenseStep
from surelock.experiments import wording
from surelock.experiments.lengths import Length, of
from surelock.experiments.quality import QUALITY_COLUMNS, QUALITY_NOTE, load_judge
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.rules import NONE
from surelock.experiments.sweep.answers import (
    TASK_COLUMNS,
    TASK_NAMES,
    TASK_NOTE,
    Answers,
    Asked,
    answer_problems,
    choose_problems,
    continue_texts,
    task_row,
    text_row,
)
from surelock.experiments.sweep.compare import (
    EQUAL_COLUMNS,
    EQUAL_NOTE,
    PLACE_COLUMNS,
    compare_answers,
    means,
    tally,
    verdict,
)
from surelock.experiments.sweep.damage import Damage, measure_damage
from surelock.experiments.sweep.equal_cost import shared_places
from surelock.experiments.sweep.policies import ByDrift, ByKL, DriftOf, OnlySaturated, Policy
from surelock.experiments.sweep.together import COST_NOTE, Variant, cost_row
from surelock.params import LockParams, SamplingParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Canvas, Workbench

KL: Final = "KL"
JOINT: Final = "K/V drift"
DRIFTS: Final[dict[str, DriftOf]] = {"V drift": "values", "K drift": "keys", JOINT: "both"}
CRITERIA: Final = (KL, *DRIFTS)
TEXTS, PROBLEMS = "texts", "problems"
# Which rows a criterion is allowed to lock.
ALL, SATURATED, UNSURE = "all", "saturated", "not saturated"
SCOPES: Final = (ALL, SATURATED, UNSURE)
# Upper ends of the bins of 1 - max p.
UNCERTAINTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MOVED: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        num_prompts: texts. `num_problems`: of all kinds together. `tasks`: these kinds.
        num_forced: texts, and problems of one length, whose decisions are repeated.
        lengths: N_gen and steps of the texts; only the first is measured.
        tokens_per_step: of the problems.
        thresholds: epsilons. `drifts`: relative movements.
        saturated_below: rows of a smaller 1 - max p are saturated.
    """

    num_prompts: int = 48
    num_problems: int = 80
    tasks: tuple[str, ...] = TASK_NAMES
    num_forced: int = 16
    lengths: tuple[Length, ...] = of(64)
    tokens_per_step: int = 1
    thresholds: tuple[float, ...] = (5e-8, 5e-7, 5e-6, 5e-5, 5e-4, 5e-3, 5e-2, 0.5)
    drifts: tuple[float, ...] = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
    saturated_below: float = 1e-3


QUICK: Final = Settings(
    num_prompts=2,
    num_problems=4,
    tasks=("shop", "unit"),
    num_forced=1,
    lengths=(Length(16, 8),),
    tokens_per_step=8,
    thresholds=(5e-4, 0.05),
    drifts=(0.03, 0.2),
)

SETTING_COLUMNS: Final = (Column("criterion", "criterion"), Column("threshold", "threshold", "{:g}"))
COLUMNS: Final = (
    *SETTING_COLUMNS,
    *QUALITY_COLUMNS,
    Column("active_ratio", "active ratio", "{:.3f}"),
    Column("exact_ratio"),
    Column("full_ratio", "full FLOPs", "{:.3f}"),
)
DAMAGE_COLUMNS: Final = (
    Column("source", "prompts"),
    Column("criterion", "criterion"),
    Column("scope", "rows it may lock"),
    Column("threshold", "threshold", "{:g}"),
    Column("active_ratio", "active ratio", "{:.3f}"),
    Column("locks", "locks", "{:,}"),
    Column("frozen", "frozen rows", "{:,}"),
    Column("masked_rows", "masked rows", "{:,}"),
    Column("flip_rate", "flips", "{:.3%}"),
    Column("kl_per_row", "KL per masked row", "{:.2e}"),
    Column("kl_per_frozen", "KL per frozen row", "{:.2e}"),
)
BLIND_COLUMNS: Final = (
    Column("source", "prompts"),
    Column("uncertainty_up_to", "1 - max p up to", "{:g}"),
    Column("rows", "rows", "{:,}"),
    Column("kl_median", "KL, median", "{:.1e}"),
    Column("drift_median", "K/V drift, median", "{:.3f}"),
    Column("passing", "pass KL", "{:.1%}"),
    Column("passing_drift_p90", "drift of these, 90 %", "{:.3f}"),
    Column("passing_moved", "of these moved", "{:.2%}"),
)
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class _Setting:
    criterion: str
    threshold: float | None
    start: Callable[[], Policy]

    @property
    def variant(self) -> Variant:
        return Variant(
            self.criterion if self.threshold is None else f"{self.criterion}, {self.threshold:g}", self.start
        )


def run(bench: Workbench) -> Result:
    """Texts, problems, repeated decisions and a run without locks, under every criterion."""
    settings = bench.settings(Settings(), QUICK)
    texts = bench.prompts.texts(settings.num_prompts)
    fitting, left_out = bench.fitting(settings.lengths[:1], [text.canvas for text in texts])
    chosen = _settings(settings)
    variants = [each.variant for each in chosen]
    judge = load_judge(bench)
    answers: Mapping[str, Answers] = {}
    damage: list[Row] = []
    blind: list[Row] = []
    repeated: list[tuple[str, Sequence[Canvas], SamplingParams]] = []
    for length in fitting:
        answers = continue_texts(bench, judge, texts, length, variants)
        params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, ignore_eos=True)
        repeated.append((TEXTS, [text.canvas for text in texts[: settings.num_forced]], params))
    solved: Mapping[str, Answers] = {}
    if bench.prompts.is_chat:
        problems = choose_problems(bench.llm, settings.num_problems, seed=bench.options.seed, tasks=settings.tasks)
        solved = answer_problems(bench, problems, variants, tokens_per_step=settings.tokens_per_step)
        repeated.append((PROBLEMS, *_alike(problems, settings)))
    else:
        left_out = [*left_out, f"tasks: {bench.llm.name} has no chat template to ask them through"]
    for source, canvases, params in repeated:
        damage += _damage_rows(bench, settings, source, canvases, params)
        blind += _blind_rows(bench, source, canvases, params)
    rows = [_text_row(bench, each, answers) for each in chosen if answers]
    problem_rows = [_problem_row(bench, each, solved) for each in chosen if solved]
    equal = [*_equal(bench, chosen, answers, "texts"), *_equal(bench, chosen, solved, "problems")]
    return Result(
        number=FINDING.number,
        name=FINDING.name,
        title="Lock by the movement of keys and values, or of the posterior?",
        method=(
            f"Text continuations at N_gen/steps {settings.lengths[0]} and problems with exact answers. A position that "
            "was computed with its token locks when KL(p_t || p_{t-1}) is at most a threshold (the default rule), or "
            "when its values, its keys or both moved by at most a threshold in every layer, ||now - before|| / "
            "||before||, which needs no LM head. The criteria are compared where they compute equally many rows. Then "
            "the decisions of runs without locks are repeated with locks, and the masked rows are compared; also with "
            f"a criterion that may lock only saturated rows (1 - max p below {settings.saturated_below:g}), where KL "
            "sees little, or only the others."
        ),
        facts=bench.facts(settings, prompts=bench.prompts.text_source, judge=judge.name),
        tables=[
            Table("kv_drift", EQUAL_NOTE, (SETTING_COLUMNS[0], *EQUAL_COLUMNS), means(equal)),
            Table("kv_drift_places", EQUAL_NOTE, (SETTING_COLUMNS[0], *PLACE_COLUMNS), equal, on_page=False),
            Table("kv_drift_texts", f"{QUALITY_NOTE} {COST_NOTE}", COLUMNS, rows),
            Table("kv_drift_tasks", TASK_NOTE, (*SETTING_COLUMNS, *TASK_COLUMNS), problem_rows),
            Table("kv_drift_damage", _DAMAGE_NOTE, DAMAGE_COLUMNS, damage),
            Table("kv_drift_blind", _BLIND_NOTE, BLIND_COLUMNS, blind),
        ],
        pictures=[
            Picture("kv_drift", _CAPTION, lambda: _draw(rows, problem_rows)),
            Picture("kv_drift_damage", _DAMAGE_CAPTION, lambda: _draw_damage(damage)),
        ]
        if rows
        else [],
        findings=[*_equal_findings(rows, means(equal)), *_damage_findings(damage), *_blind_findings(blind)],
        left_out=left_out,
    )


def _settings(settings: Settings) -> list[_Setting]:
    return [_Setting(NONE, None, Policy), *_criteria(settings)]


def _criteria(settings: Settings) -> list[_Setting]:
    found = [
        _Setting(KL, threshold, partial(ByKL, LockParams(kl_threshold=threshold))) for threshold in settings.thresholds
    ]
    for name, kind in DRIFTS.items():
        found += [_Setting(name, threshold, partial(ByDrift, threshold, kind)) for threshold in settings.drifts]
    return found


def _text_row(bench: Workbench, each: _Setting, answers: Mapping[str, Answers]) -> Row:
    own = answers[each.variant.name]
    return {
        "criterion": each.criterion,
        "threshold": each.threshold,
        **text_row(own, answers[NONE], seed=bench.options.seed),
        **cost_row(bench.llm.config, own.runs),
    }


def _problem_row(bench: Workbench, each: _Setting, solved: Mapping[str, Answers]) -> Row:
    own = solved[each.variant.name]
    return {
        "criterion": each.criterion,
        "threshold": each.threshold,
        **task_row(bench.llm, own, solved[NONE], seed=bench.options.seed),
    }


def _equal(
    bench: Workbench, chosen: Sequence[_Setting], answers: Mapping[str, Answers], what: Literal["texts", "problems"]
) -> list[Row]:
    """Each drift against KL."""
    if not answers:
        return []
    families = {name: [answers[each.variant.name] for each in chosen if each.criterion == name] for name in CRITERIA}
    return [
        {"criterion": name, **row}
        for name in DRIFTS
        for row in compare_answers(families[name], families[KL], what, seed=bench.options.seed)
    ]


def _alike(problems: Sequence[Asked], settings: Settings) -> tuple[Sequence[Canvas], SamplingParams]:
    """Problems of the most common lengths, and how they are decoded."""
    shapes = [(len(each.prompt), each.max_tokens) for each in problems]
    # The longest of those that are equally common.
    shape, _ = max(Counter(shapes).items(), key=lambda item: (item[1], item[0]))
    canvases = [each.prompt for each, own in zip(problems, shapes, strict=True) if own == shape]
    max_tokens = shape[1]
    steps = -(-max_tokens // settings.tokens_per_step)
    return canvases[: settings.num_forced], SamplingParams(max_tokens=max_tokens, steps=steps)


def _damage_rows(
    bench: Workbench, settings: Settings, source: str, canvases: Sequence[Canvas], params: SamplingParams
) -> list[Row]:
    limit = settings.saturated_below
    settings_of: dict[str, tuple[_Setting, str]] = {}
    variants = []
    for each in _criteria(settings):
        for scope in SCOPES:
            name = f"{each.variant.name}, {scope}"
            start = each.start if scope == ALL else partial(_limited, each.start, limit, scope == SATURATED)
            settings_of[name] = (each, scope)
            variants.append(Variant(name, start))
    found = measure_damage(bench.llm.transformer, canvases, params, variants, progress=bench.progress)
    return [{"source": source, **_damage_row(*settings_of[name], total)} for name, total in found.items()]


def _limited(start: Callable[[], Policy], limit: float, below: bool) -> Policy:
    return OnlySaturated(start(), limit, below=below)


def _damage_row(each: _Setting, scope: str, total: Damage) -> Row:
    return {
        "criterion": each.criterion,
        "scope": scope,
        "threshold": each.threshold,
        "active_ratio": total.active / total.possible,
        "locks": total.locks,
        "frozen": total.frozen,
        "masked_rows": total.rows,
        "flip_rate": total.flips / total.rows,
        "kl_per_row": total.kl / total.rows,
        "kl_per_frozen": total.kl / total.frozen if total.frozen else None,
    }


def _blind_rows(bench: Workbench, source: str, canvases: Sequence[Canvas], params: SamplingParams) -> list[Row]:
    """Visible rows of runs without locks, by how sure they are."""
    params = replace(params, lock=None)
    decoder = DenseDecoder(bench.llm.transformer, measure_drift=True)
    size = decoder.batch_size(len(canvases[0]) + params.max_tokens)
    parts: list[torch.Tensor] = []
    for start in range(0, len(canvases), size):
        parts += [_visible(step) for step in decoder.steps(canvases[start : start + size], params) if step.step > 1]
    uncertainty, kl, drift = torch.cat(parts, dim=1).double().cpu().numpy() if parts else np.zeros((3, 0))
    place = np.searchsorted(UNCERTAINTIES, uncertainty)
    passing = kl <= LockParams().kl_threshold
    rows: list[Row] = []
    for index, end in enumerate(UNCERTAINTIES):
        here = place == index
        both = here & passing
        rows.append(
            {
                "source": source,
                "uncertainty_up_to": end,
                "rows": int(here.sum()),
                "kl_median": _quantile(kl[here], 0.5),
                "drift_median": _quantile(drift[here], 0.5),
                "passing": float(passing[here].mean()) if here.any() else None,
                "passing_drift_p90": _quantile(drift[both], 0.9),
                "passing_moved": float((drift[both] > MOVED).mean()) if both.any() else None,
            }
        )
    return rows


def _visible(step: DenseStep) -> torch.Tensor:
    """Uncertainty, KL and drift [3, n] of rows computed with their token."""
    assert step.drift is not None, "the decoder measures drift"
    where = ~step.masked
    drift = torch.maximum(step.drift.keys_step, step.drift.values_step).amax(0)
    return torch.stack((step.uncertainty[where], step.kl[where], drift[where]))


def _quantile(values: Array, share: float) -> float | None:
    return float(np.quantile(values, share)) if len(values) else None


def _equal_findings(rows: Sequence[Row], equal: Sequence[Row]) -> list[str]:
    found = []
    for name in DRIFTS:
        compared = [row for row in equal if row["criterion"] == name]
        if compared:
            told = "; ".join(verdict(row) for row in compared)
            found.append(f"{name} against KL at equal active ratio: {told}.")
        saved = _saved(rows, name)
        if saved is not None:
            found.append(
                f"{name} computes no LM head for candidates: at equal active ratio its full FLOPs are {abs(saved):.1%} "
                f"{'below' if saved >= 0 else 'above'} those of KL (of this model; the head is a larger or smaller "
                "part of others)."
            )
    if equal:
        found.append(tally(equal, "KL", "drift"))
    return found


def _saved(rows: Sequence[Row], name: str) -> float | None:
    """Share of the full FLOPs of KL that a drift criterion saves, over the active ratios both reach."""
    own, other = (_line(rows, each, "full_ratio") for each in (name, KL))
    if own is None or other is None:
        return None
    places = shared_places(own[0], other[0])
    if places is None:
        return None
    return float(1 - (np.interp(places, *own) / np.interp(places, *other)).mean())


def _line(rows: Sequence[Row], criterion: str, key: str) -> tuple[Array, Array] | None:
    points = sorted((float(row["active_ratio"]), float(row[key])) for row in rows if row["criterion"] == criterion)
    if not points:
        return None
    x, y = np.asarray(points).T
    return x, y


def _damage_findings(damage: Sequence[Row]) -> list[str]:
    found = []
    for source in dict.fromkeys(row["source"] for row in damage):
        for scope in SCOPES:
            here = [row for row in damage if (row["source"], row["scope"]) == (source, scope)]
            lines = [_line(here, name, key) for name in (JOINT, KL) for key in ("kl_per_row", "flip_rate")]
            own, own_flips, other, other_flips = (line for line in lines if line is not None)
            head = f"Repeated decisions, {source}, {scope} rows"
            places = shared_places(own[0], other[0])
            if places is None:
                found.append(
                    f"{head}: {JOINT} and KL share no range of active ratios ({wording.span(own[0].tolist())}; "
                    f"{wording.span(other[0].tolist())})."
                )
                continue
            flips = [float(np.interp(places, *line).mean()) for line in (own_flips, other_flips)]
            told = (
                f"{flips[0]:.3%} against {flips[1]:.3%} of them have another likeliest token"
                if any(flips)
                else "none of them has another likeliest token under either"
            )
            found.append(
                f"{head}, at equal active ratio ({wording.span(places.tolist())}): the masked rows are "
                f"{wording.scientific(float(np.interp(places, *own).mean()))} nats from no lock under {JOINT} and "
                f"{wording.scientific(float(np.interp(places, *other).mean()))} under KL, and {told}."
            )
    return found


def _blind_findings(blind: Sequence[Row]) -> list[str]:
    found = []
    for source in dict.fromkeys(row["source"] for row in blind):
        here = [row for row in blind if row["source"] == source and row["passing_moved"] is not None]
        if len(here) < 2:
            continue
        sure, unsure = here[0], here[-1]
        found.append(
            f"Without locks, {source}: of the rows with 1 - max p up to {wording.threshold(sure['uncertainty_up_to'])} "
            f"{sure['passing']:.1%} pass the KL test of the default rule, and of these {sure['passing_moved']:.2%} "
            f"move their keys or values by more than {MOVED:g} in that step; of the least sure {unsure['passing']:.1%} "
            f"pass, and {unsure['passing_moved']:.2%} of these move so far."
        )
    return found


def _draw(rows: Sequence[Row], problems: Sequence[Row]) -> Figure:
    from surelock.experiments import style
    from surelock.experiments.sweep.drawing import ppl_ratio_axis

    panels = [(rows, "agreement", "active_ratio"), (rows, "ppl_ratio", "active_ratio")]
    if problems:
        panels.append((problems, "accuracy", "task_active_ratio"))
    figure, (line,) = style.axes_grid(1, len(panels), height=3.9, width=3.3 * len(panels))
    labels = {"agreement": "agreement, texts", "ppl_ratio": "Gen-PPL ratio, texts", "accuracy": "right, problems"}
    for axes, (shown, key, cost) in zip(line, panels, strict=True):
        for index, name in enumerate(CRITERIA):
            points = sorted((float(row[cost]), float(row[key])) for row in shown if row["criterion"] == name)
            axes.plot(
                *zip(*points, strict=True), color=style.SERIES[index], marker=style.MARKERS[index], markersize=5,
                label=name,
            )  # fmt: skip
        none = next(row[key] for row in shown if row["criterion"] == NONE)
        axes.axhline(none, color=style.INK, linewidth=0.9, label="no lock")
        axes.set_xlabel("active ratio")
        axes.set_ylabel(labels[key])
        if key == "ppl_ratio":
            ppl_ratio_axis(axes)
        if key == "accuracy":
            style.share_axis(axes)
    style.legend_below(figure, list(line), columns=5)
    return figure


def _draw_damage(damage: Sequence[Row]) -> Figure:
    from surelock.experiments import style

    sources = list(dict.fromkeys(row["source"] for row in damage))
    figure, grid = style.axes_grid(len(sources), len(SCOPES), height=2.8 * len(sources) + 0.5, width=9.9)
    for line, source in zip(grid, sources, strict=True):
        for axes, scope in zip(line, SCOPES, strict=True):
            for index, name in enumerate(CRITERIA):
                points = sorted(
                    (float(row["active_ratio"]), float(row["kl_per_row"]))
                    for row in damage
                    if (row["source"], row["scope"], row["criterion"]) == (source, scope, name)
                    and row["kl_per_row"] > 0
                )
                if points:
                    axes.plot(
                        *zip(*points, strict=True), color=style.SERIES[index], marker=style.MARKERS[index],
                        markersize=5, label=name,
                    )  # fmt: skip
            if axes.lines:
                axes.set_yscale("log")
                style.few_ticks(axes)
            axes.set_xlabel("active ratio")
            axes.set_title(f"{source}: {scope} rows", fontsize=10)
        line[0].set_ylabel("KL per masked row, nats")
    style.legend_below(figure, [axes for line in grid for axes in line], columns=4)
    return figure


_DAMAGE_NOTE: Final = (
    "Decisions of runs without locks repeated with locks. Flips: masked rows with another likeliest token than without "
    "locks; KL: of the masked rows' posterior without locks from that with locks; per frozen row: divided by the "
    "frozen rows that everybody read in the same steps."
)
_BLIND_NOTE: Final = (
    "Rows computed with their token in runs without locks, step after step. Pass KL: at most the default rule's "
    f"threshold; of these moved: keys or values changed by more than {MOVED:g} in some layer."
)
_CAPTION: Final = (
    "Quality against the rows computed, one line for each criterion over its threshold. Black line: no lock."
)
_DAMAGE_CAPTION: Final = (
    "What locking does to the masked rows when the decisions of a run without locks are repeated, for criteria that "
    "may lock all rows, only saturated ones, only the others."
)
FINDING: Final = Experiment("finding", "kv_drift", "Locking by key and value drift", run)
