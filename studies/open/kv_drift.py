"""Is the movement of keys and values, which needs no LM head, a better reason to lock than that of the posterior?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Final

import numpy as np
import torch

from studies import equal_cost
from studies.bench import WORKED, Bench, Case, Length, common_lengths, continuations, lengths
from studies.decoders import NONE, Decoder, batches_of
from studies.forced.damage import measure_damage
from studies.measures import ANSWERED, CONTINUED, QUALITY_NOTE, RIGHT_NOTE, ROWS_NOTE, Comparison
from studies.plots import Panel, Plot
from studies.policies import ByDrift, ByKL, DriftOf, OnlySaturated, Policy
from studies.study import Cell, Rows, Settings, Study, Table, average, grouped, quantile
from surelock.measure.instrumented import InstrumentedDecoder, MeasuredStep
from surelock.params import LockParams

Starts = dict[tuple[str, float | None], Callable[[], Policy]]
KL: Final = "KL"
DRIFTS: Final[dict[str, DriftOf]] = {"V drift": "values", "K drift": "keys", "K/V drift": "both"}
SCOPES: Final = {"all": None, "saturated": True, "not saturated": False}
# Upper ends of the bins of 1 - max p; and the relative movement of keys or values that counts as one.
UNCERTAINTIES, MOVED = (1e-4, 1e-3, 1e-2, 1e-1, 1.0), 0.1


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """Texts and problems under every criterion; their decisions repeated with locks; and without locks, measured."""
    starts: Starts = {(NONE, None): Policy, **_criteria(settings)}
    names, speed = ("criterion", "threshold"), settings.tokens_per_step
    decoders = [Decoder(label=dict(zip(names, key, strict=True)), policy=start) for key, start in starts.items()]
    asked = common_lengths(bench, settings.tasks, settings.num_problems, tokens_per_step=speed)
    equal = partial(equal_cost.against, table="kv_drift", other=KL, pairs=[(name, {}) for name in DRIFTS])
    cells = Comparison(bench, "kv_drift_texts", decoders, CONTINUED, equal).of_texts(settings)
    continued = continuations(bench.texts(settings.num_forced), settings.lengths[0]) if cells else []
    cells += Comparison(bench, "kv_drift_tasks", decoders, ANSWERED, equal).of(asked)
    sizes, weight = Counter(case.size for case in asked), sum(cell.weight for cell in cells) / 4
    size = max(sizes, key=lambda each: (sizes[each], each), default=None)
    for source, cases in (("texts", continued), ("problems", [case for case in asked if case.size == size])):
        for name, measure in (("decisions repeated", _damage), ("without locks", _blind)) if cases else ():
            measured = partial(measure, bench, settings, source, cases[: settings.num_forced])
            cells.append(Cell(f"{source}, {name}", measured, weight))
    return cells


def _criteria(settings: Settings) -> Starts:
    drifts = product(DRIFTS.items(), settings.drifts)
    return {
        **{(KL, each): partial(ByKL, LockParams.permanent(each)) for each in settings.thresholds},
        **{(name, each): partial(ByDrift, each, kind) for (name, kind), each in drifts},
    }


def _damage(bench: Bench, settings: Settings, source: str, cases: Sequence[Case]) -> Rows:
    policies, labels = [], []
    for ((criterion, threshold), start), (scope, below) in product(_criteria(settings).items(), SCOPES.items()):
        limited = partial(OnlySaturated, start, settings.saturated_below, below=bool(below))
        policies.append(start if below is None else limited)
        labels.append({"source": source, "scope": scope, "criterion": criterion, "threshold": threshold})
    found = measure_damage(bench, [case.prompt for case in cases], cases[0].params, policies)
    return {"kv_drift_damage": [label | row for label, row in zip(labels, found, strict=True)]}


def _blind(bench: Bench, settings: Settings, source: str, cases: Sequence[Case]) -> Rows:
    """Rows computed with their token in runs without locks, by how sure they are."""
    decoder, params = InstrumentedDecoder(bench.llm.transformer, measure_drift=True), cases[0].params
    canvases = [case.prompt for case in cases]
    parts = [
        _visible(step)
        for batch in batches_of(decoder, canvases, params.max_tokens)
        for step in decoder.steps([canvases[index] for index in batch], params)
        if step.step > 1
    ]
    uncertainty, kl, drift = torch.cat(parts, dim=1).double().cpu().numpy() if parts else np.zeros((3, 0))
    place, passing = np.searchsorted(UNCERTAINTIES, uncertainty), kl <= LockParams.permanent().kl_threshold
    found: Rows = {"kv_drift_blind": []}
    for index, end in enumerate(UNCERTAINTIES):
        here, both = place == index, (place == index) & passing
        found["kv_drift_blind"].append({
            "source": source, "uncertainty_up_to": end, "rows": int(here.sum()),
            "kl_median": quantile(kl[here], 0.5), "drift_median": quantile(drift[here], 0.5),
            "passing": average(passing[here]), "passing_drift_p90": quantile(drift[both], 0.9),
            "passing_moved": average(drift[both] > MOVED),
        })  # fmt: skip
    return found


def _visible(step: MeasuredStep) -> torch.Tensor:
    """Uncertainty, KL and drift [3, n] of rows computed with their token."""
    assert step.drift is not None, "the decoder measures drift"
    at, drift = ~step.masked, torch.maximum(step.drift.keys_step, step.drift.values_step).amax(0)
    return torch.stack((step.uncertainty[at], step.kl[at], drift[at]))


def finish(bench: Bench, settings: Settings, rows: Rows) -> Rows:
    """Full FLOPs that a drift saves against KL, over the active ratios both reach: it needs no LM head."""
    lines = {
        name: np.array(sorted((row["active_ratio"], row["full_ratio"]) for row in same))
        for (name,), same in grouped(rows["kv_drift_texts"], "criterion")
    }
    found: Rows = {"kv_drift_cost": []}
    for name in DRIFTS if lines else ():
        if (places := equal_cost.shared_places(lines[name][:, 0], lines[KL][:, 0])) is not None:
            own, other = (np.interp(places, *lines[each].T) for each in (name, KL))
            found["kv_drift_cost"].append({"criterion": name, "full_saved": float(1 - (own / other).mean())})
    return found


STUDY = Study(
    name="kv_drift", title="Lock by the movement of keys and values, or of the posterior?",
    method="Text continuations at N_gen/steps {lengths} and problems with exact answers. A position that was computed "
    "with its token locks when KL(p_t || p_(t-1)) is at most a threshold (the permanent rule), or when its values, its "
    "keys or both moved by at most a threshold in every layer, ||now - before|| / ||before||. Then decisions without "
    "locks are repeated with locks of all rows, of saturated ones (1 - max p below {saturated_below}), of the others.",
    settings={
        "num_prompts": 48, "num_problems": 80, "tasks": WORKED, "num_forced": 16, "lengths": lengths(64),
        "tokens_per_step": 1, "thresholds": (5e-8, 5e-7, 5e-6, 5e-5, 5e-4, 5e-3, 5e-2, 0.5),
        "drifts": (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64), "saturated_below": 1e-3,
    },
    quick={
        "num_prompts": 2, "num_problems": 4, "tasks": ("shop", "unit"), "num_forced": 1, "lengths": (Length(16, 8),),
        "tokens_per_step": 8, "thresholds": (5e-4, 0.05), "drifts": (0.03, 0.2),
    },
    grid=grid, finish=finish,
    tables=(
        Table("kv_drift", equal_cost.NOTE), Table("kv_drift_places", columns=None),
        Table("kv_drift_cost", "Full FLOPs that a drift saves against KL at equal active ratio."),
        Table("kv_drift_texts", f"{QUALITY_NOTE} {ROWS_NOTE}"), Table("kv_drift_tasks", f"{RIGHT_NOTE} {ROWS_NOTE}"),
        Table("kv_drift_damage", "Decisions of runs without locks repeated with locks. Flips: masked rows with another "
              "likeliest token than without locks; KL (no lock || locks): of the masked rows, also by frozen row."),
        Table("kv_drift_blind", "Rows computed with their token in runs without locks, by 1 - max p. Passing: KL at "
              f"most the permanent rule's threshold; moved: of these, keys or values by over {MOVED:g} in a layer."),
    ),
    plots=(
        Plot("kv_drift", "Quality against the rows computed, a line for each criterion over its threshold.",
            Panel("kv_drift_texts", "active_ratio", "agreement ppl_ratio", "criterion", base=NONE),
            Panel("kv_drift_tasks", "active_ratio", "accuracy", "criterion", base=NONE),
        ),
        Plot("kv_drift_damage", "What locking does to the masked rows when the decisions of a run without repeat.", *(
            Panel("kv_drift_damage", "active_ratio", "kl_per_row", "criterion", "scope", log="y", only={"source": each})
            for each in ("texts", "problems")
        )),
    ),
)  # fmt: skip
