"""Is the movement of keys and values, which needs no LM head, a better reason to lock than that of the posterior?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch

from studies import equal_cost
from studies.bench import Bench, Length, lengths
from studies.damage import measure_damage
from studies.decoders import NONE, Decoder
from studies.measures import QUALITY_NOTE, RIGHT_NOTE, ROWS_NOTE, Outcome, of_problems, of_texts, quality, rows_computed
from studies.plots import Panel, picture
from studies.policies import ByDrift, ByKL, DriftOf, OnlySaturated, Policy
from studies.study import Cell, Plot, Row, Rows, Study, Table, where
from studies.workload import WORKED, Case, common_lengths, continuations
from surelock.measure.instrumented import InstrumentedDecoder as DenseDecoder
from surelock.measure.instrumented import MeasuredStep as DenseStep
from surelock.params import LockParams

KL: Final = "KL"
DRIFTS: Final[dict[str, DriftOf]] = {"V drift": "values", "K drift": "keys", "K/V drift": "both"}
# Rows that a criterion is allowed to lock: all, only saturated ones, only the others.
SCOPES: Final = {"all": None, "saturated": True, "not saturated": False}
# Upper ends of the bins of 1 - max p; and the relative movement of keys or values that counts as one.
UNCERTAINTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MOVED: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Texts, problems, how many of each are repeated; epsilons and drifts; 1 - max p below which a row is saturated."""

    num_prompts: int = 48
    num_problems: int = 80
    tasks: tuple[str, ...] = WORKED
    num_forced: int = 16
    lengths: tuple[Length, ...] = lengths(64)
    tokens_per_step: int = 1
    thresholds: tuple[float, ...] = (5e-8, 5e-7, 5e-6, 5e-5, 5e-4, 5e-3, 5e-2, 0.5)
    drifts: tuple[float, ...] = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
    saturated_below: float = 1e-3


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """Texts and problems under every criterion; their decisions repeated with locks; and without locks, measured."""
    decoders = [Decoder(label={"criterion": NONE, "threshold": None}, policy=Policy), *_criteria(settings)]
    speed = settings.tokens_per_step
    asked = common_lengths(bench, settings.tasks, settings.num_problems, tokens_per_step=speed)
    cells = of_texts(bench, settings, "kv_drift_texts", decoders, (quality, rows_computed), _equal)
    continued = continuations(bench.texts(settings.num_forced), settings.lengths[0]) if cells else []
    cells += of_problems(bench, "kv_drift_tasks", asked, decoders, _equal)
    weight = sum(cell.weight for cell in cells)
    for source, cases in (("texts", continued), ("problems", _alike(asked))):
        if cases:
            forced = cases[: settings.num_forced]
            for name, measure in (("decisions repeated", _damage), ("without locks", _blind)):
                cells.append(
                    Cell(
                        name=f"{source}, {name}",
                        measure=partial(measure, bench, settings, source, forced),
                        weight=weight / 4,
                    )
                )
    return cells  # fmt: skip


def _criteria(settings: Settings) -> list[Decoder]:
    def decoder(criterion: str, threshold: float, start: Callable[[], Policy]) -> Decoder:
        return Decoder(label={"criterion": criterion, "threshold": threshold}, policy=start)

    found = [decoder(KL, each, partial(ByKL, LockParams.permanent(each))) for each in settings.thresholds]
    for name, kind in DRIFTS.items():
        found += [decoder(name, threshold, partial(ByDrift, threshold, kind)) for threshold in settings.drifts]
    return found


def _equal(found: Sequence[Outcome]) -> Rows:
    """Each drift against KL."""
    return equal_cost.against("kv_drift", found, KL, [(name, {}) for name in DRIFTS])


def _alike(cases: Sequence[Case]) -> list[Case]:
    """Problems of the most common length, the longest of those that are equally common."""
    shapes = Counter((len(case.prompt), case.params.max_tokens) for case in cases)
    shape, _ = max(shapes.items(), key=lambda item: (item[1], item[0]), default=((0, 0), 0))
    return [case for case in cases if (len(case.prompt), case.params.max_tokens) == shape]


def _damage(bench: Bench, settings: Settings, source: str, cases: Sequence[Case]) -> Rows:
    policies: dict[str, Callable[[], Policy]] = {}
    labels: dict[str, Row] = {}
    for decoder in _criteria(settings):
        assert decoder.policy is not None
        for scope, below in SCOPES.items():
            label = {"source": source, "scope": scope, **decoder.label}
            limited = partial(_limited, decoder.policy, settings.saturated_below, below)
            labels[str(label)], policies[str(label)] = label, limited
    found = measure_damage(bench, [case.prompt for case in cases], cases[0].params, policies)
    return {"kv_drift_damage": [{**labels[name], **total.row()} for name, total in found.items()]}


def _limited(start: Callable[[], Policy], limit: float, below: bool | None) -> Policy:
    return start() if below is None else OnlySaturated(start(), limit, below=below)


def _blind(bench: Bench, settings: Settings, source: str, cases: Sequence[Case]) -> Rows:
    """Rows computed with their token in runs without locks, by how sure they are."""
    decoder, params = DenseDecoder(bench.llm.transformer, measure_drift=True), cases[0].params
    canvases = [case.prompt for case in cases]
    size = decoder.batch_size(len(canvases[0]) + params.max_tokens)
    parts: list[torch.Tensor] = []
    for start in range(0, len(canvases), size):
        parts += [_visible(step) for step in decoder.steps(canvases[start : start + size], params) if step.step > 1]
    uncertainty, kl, drift = torch.cat(parts, dim=1).double().cpu().numpy() if parts else np.zeros((3, 0))
    place, passing = np.searchsorted(UNCERTAINTIES, uncertainty), kl <= LockParams.permanent().kl_threshold
    rows: list[Row] = []
    for index, end in enumerate(UNCERTAINTIES):
        here = place == index
        both = here & passing
        rows.append({
            "source": source, "uncertainty_up_to": end, "rows": int(here.sum()),
            "kl_median": _quantile(kl[here], 0.5), "drift_median": _quantile(drift[here], 0.5),
            "passing": float(passing[here].mean()) if here.any() else None,
            "passing_drift_p90": _quantile(drift[both], 0.9),
            "passing_moved": float((drift[both] > MOVED).mean()) if both.any() else None,
        })  # fmt: skip
    return {"kv_drift_blind": rows}


def _visible(step: DenseStep) -> torch.Tensor:
    """Uncertainty, KL and drift [3, n] of rows computed with their token."""
    assert step.drift is not None, "the decoder measures drift"
    at, drift = ~step.masked, torch.maximum(step.drift.keys_step, step.drift.values_step).amax(0)
    return torch.stack((step.uncertainty[at], step.kl[at], drift[at]))


def _quantile(values: equal_cost.Array, share: float) -> float | None:
    return float(np.quantile(values, share)) if len(values) else None


def finish(bench: Bench, settings: Settings, rows: Rows) -> Rows:
    """Full FLOPs that a drift saves against KL, over the active ratios both reach: it needs no LM head."""
    lines = {}
    for name in (KL, *DRIFTS):
        own = where(rows["kv_drift_texts"], criterion=name)
        lines[name] = np.array(sorted((row["active_ratio"], row["full_ratio"]) for row in own))
    found = []
    for name in DRIFTS:
        if len(lines[name]) and len(lines[KL]):
            places = equal_cost.shared_places(lines[name][:, 0], lines[KL][:, 0])
            if places is not None:
                own, other = (np.interp(places, *lines[each].T) for each in (name, KL))
                found.append({"criterion": name, "full_saved": float(1 - (own / other).mean())})
    return {"kv_drift_cost": found}


STUDY: Final = Study(
    number="open",
    name="kv_drift",
    title="Lock by the movement of keys and values, or of the posterior?",
    method="Text continuations at N_gen/steps {lengths} and problems with exact answers. A position that was computed "
    "with its token locks when KL(p_t || p_(t-1)) is at most a threshold (the permanent rule), or when its values, its "
    "keys or both moved by at most a threshold in every layer, ||now - before|| / ||before||, which needs no LM head. "
    "The criteria are compared where they compute equally many rows. Then the decisions of runs without locks are "
    "repeated with locks, and the masked rows are compared; also with a criterion that may lock only saturated rows "
    "(1 - max p below {saturated_below}), where KL sees little, or only the others.",
    settings=Settings(),
    quick=Settings(num_prompts=2, num_problems=4, tasks=("shop", "unit"), num_forced=1, lengths=(Length(16, 8),),
                   tokens_per_step=8, thresholds=(5e-4, 0.05), drifts=(0.03, 0.2)),
    grid=grid,
    finish=finish,
    tables=(
        Table("kv_drift", equal_cost.NOTE),
        Table("kv_drift_places", columns=None),
        Table("kv_drift_cost", "Full FLOPs that a drift saves against KL at equal active ratio."),
        Table("kv_drift_texts", f"{QUALITY_NOTE} {ROWS_NOTE}"),
        Table("kv_drift_tasks", f"{RIGHT_NOTE} {ROWS_NOTE}"),
        Table("kv_drift_damage", "Decisions of runs without locks repeated with locks. Flips: masked rows with another "
              "likeliest token than without locks; KL: of the masked rows' posterior without locks from that with "
              "locks; per frozen row: divided by the frozen rows that were read in the same steps."),
        Table("kv_drift_blind", "Rows computed with their token in runs without locks, by 1 - max p. Passing: KL at "
              f"most the permanent rule's threshold; moved: of these, keys or values by over {MOVED:g} in a layer."),
    ),
    plots=(
        Plot("kv_drift", "Quality against the rows computed, a line for each criterion over its threshold.", picture(
            Panel("kv_drift_texts", "active_ratio", "agreement ppl_ratio", "criterion", base=NONE),
            Panel("kv_drift_tasks", "active_ratio", "accuracy", "criterion", base=NONE),
        )),
        Plot("kv_drift_damage", "What locking does to the masked rows when the decisions of a run without repeat.",
             picture(*(Panel("kv_drift_damage", "active_ratio", "kl_per_row", "criterion", "scope", log="y",
                             only={"source": source}) for source in ("texts", "problems")))),
    ),
)  # fmt: skip
