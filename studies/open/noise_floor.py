"""Noise floor: how small a threshold still measures the model, not its rounding, in each precision."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.bench import Bench, Length, lengths
from studies.decoders import batches_of
from studies.plots import Panel, Plot
from studies.study import Cell, Row, Rows, Settings, Study, Table, average, quantile
from surelock.engine.noise_floor import null_pair, null_part
from surelock.measure.instrumented import InstrumentedDecoder

FLOAT32, TF32, BFLOAT16 = "float32", "TF32", "bfloat16"
BATCH, ALL, ONE_LESS = "batch grows", "all rows, few", "one row less"
# A threshold means something if no more of what should be 0 lies above it.
MAX_SHARE: Final = 0.01
# Of rows [3, n]: KL in nats, uncertainty, and whether the row is visible.
Moved = NDArray[np.float64]
Canvases = Sequence[Sequence[int]]


def _moved(kl: Tensor, uncertainty: Tensor, is_visible: NDArray[np.bool_]) -> Moved:
    return np.stack((kl.double().flatten().cpu().numpy(), uncertainty.double().flatten().cpu().numpy(), is_visible))


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """One cell: every precision of the device, on the canvases of one float32 run."""
    prompts = bench.mixed(settings.num_prompts)
    fits = bench.fitting(settings.lengths[:1], prompts)
    return [Cell(f"N_gen/steps {each}", partial(_measure, bench, settings, prompts, each)) for each in fits]


def _measure(bench: Bench, settings: Settings, prompts: Canvases, length: Length) -> Rows:
    with _precision(bench.llm.transformer, FLOAT32) as model:
        canvases, steps = _trace(model, prompts, length, settings.moments)
    rows: Rows = {"noise_floor": [], "noise_floor_bins": []}
    for precision in (FLOAT32, TF32, BFLOAT16) if bench.llm.device.type == "cuda" else (FLOAT32, BFLOAT16):
        with _precision(bench.llm.transformer, precision) as model:
            pairs = null_pairs(model, canvases, settings.num_copies, settings.num_rows)
        for pair, moved in pairs.items():
            key: Row = {"precision": precision, "pair": pair}
            rows["noise_floor"] += [key | row for row in threshold_rows(moved, steps, settings.thresholds)]
            rows["noise_floor_bins"] += [key | row for row in bin_rows(moved, settings.edges)]
    return rows


def null_pairs(model: Any, canvases: Canvases, num_copies: Sequence[int], num_rows: Sequence[int]) -> dict[str, Moved]:
    """By kind of pair: each canvas alone against each number of copies; that many of its rows against all, and more."""
    parts = defaultdict(list)
    for canvas in canvases:
        is_visible = np.asarray(canvas) != model.config.mask_token_id
        for num in num_copies:
            parts[BATCH].append(_moved(*null_pair(model, canvas, num), is_visible))
        for num in num_rows:
            positions = sorted({index * len(canvas) // num for index in range(num)})
            others = [position for position in range(len(canvas)) if position not in positions][:1]
            parts[ALL].append(_moved(*null_part(model, canvas, positions), is_visible[positions]))
            parts[ONE_LESS].append(_moved(*null_part(model, canvas, positions, others), is_visible[positions]))
    return {pair: np.concatenate(parts[pair], axis=1) for pair in (BATCH, ALL, ONE_LESS) if pair in parts}


def bin_rows(moved: Moved, edges: Sequence[float]) -> list[Row]:
    """Quantiles by uncertainty; bins are open below, the first from 0 on, and empty ones are left out."""
    rows, (divergence, uncertainty, is_visible) = [], moved
    for kind, name in ((1, "visible"), (0, "masked")):
        for low, high in itertools.pairwise((0.0, *edges)):
            kl = divergence[(is_visible == kind) & (uncertainty <= high) & ((uncertainty > low) | (low == 0))]
            key = {"rows": name, "uncertainty_from": low, "uncertainty_to": high, "num_rows": len(kl)}
            levels = {"median": quantile(kl, 0.5), "p99": quantile(kl, 0.99), "max": quantile(kl, 1.0)}
            rows += [key | levels] if len(kl) else []
    return rows


def threshold_rows(null: Moved, steps: Moved, thresholds: Sequence[float]) -> list[Row]:
    """Of visible rows only."""
    (own, uncertainty), (real, _) = (moved[:2, moved[2] == 1] for moved in (null, steps))
    return [
        {
            "threshold": threshold, "null_above": average(own > threshold), "steps_below": average(real <= threshold),
            "uncertain_above": average(own[uncertainty > 0.1] > threshold),
            "means_something": "yes" if (own > threshold).mean() <= MAX_SHARE else "no",
        }
        for threshold in thresholds
    ]  # fmt: skip


def _trace(model: Any, prompts: Canvases, length: Length, moments: Sequence[float]) -> tuple[Canvases, Moved]:
    """Canvases as forwards of a run without locks read them, and how far its rows moved from step to step."""
    decoder, wanted = InstrumentedDecoder(model), {max(1, round(share * length.steps)) for share in moments}
    canvases: list[list[int]] = []
    parts = []
    for batch in batches_of(decoder, prompts, length.num_generated):
        for step in decoder.steps([prompts[index] for index in batch], length.params):
            canvases += step.inputs.tolist() if step.step in wanted else []
            if step.step > 1:
                parts.append(_moved(step.kl, step.uncertainty, ~step.masked.flatten().cpu().numpy()))
    return canvases, np.concatenate(parts, axis=1)


@contextmanager
def _precision(model: Any, precision: str) -> Iterator[Any]:
    """The model in that type of number, its own weights if they are of that type."""
    dtype = torch.bfloat16 if precision == BFLOAT16 else torch.float32
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == TF32 else "highest")
    try:
        yield model if model.dtype == dtype else copy.deepcopy(model).to(dtype)
    finally:
        torch.set_float32_matmul_precision(before)


STUDY = Study(
    name="noise_floor", title="Which thresholds mean something in which precision?",
    method="Canvases of a float32 run without locks, at several moments of it, computed in the engine's own forward: "
    "alone against among copies of themselves ({num_copies} together; 'batch grows'); and {num_rows} rows, which read "
    "the keys and values of the others, against all rows ('all rows, few') and against one row more ('one row less'). "
    "Both sides are the same mathematics, so each KL is rounding. Visible rows hold a token: only they can lock. A "
    "threshold means something if at most 1 % of the null pairs of visible rows lie above it.",
    settings={
        "num_prompts": 12, "lengths": lengths(64), "moments": (0.1, 0.3, 0.5, 0.7, 0.9), "num_copies": (3, 16),
        "num_rows": (2, 10, 40), "thresholds": (5e-8, 5e-7, 5e-6, 5e-5, 5e-4, 5e-3),
        "edges": (1e-4, 1e-2, 0.1, 0.5, 1.0),
    },
    quick={"num_prompts": 2, "lengths": lengths(24), "moments": (0.3, 0.7), "num_copies": (3,), "num_rows": (2, 10)},
    grid=grid,
    tables=(
        Table("noise_floor", "Visible rows. Null above: share of pairs whose KL is larger than epsilon; uncertain: of "
              "those with 1 - max p above 0.1. Steps below: share of the run's rows whose KL is at most epsilon."),
        Table("noise_floor_bins", "KL in nats between two computations of the same."),
    ),
    plots=(
        Plot("noise_floor", "KL of null pairs of visible rows by uncertainty, 99th percentile; and the share of "
             "visible rows above a threshold.",
            Panel("noise_floor_bins", "uncertainty_to", "p99", "precision pair", log="xy", only={"rows": "visible"}),
            Panel("noise_floor", "threshold", "null_above", "precision pair", level=MAX_SHARE, log="x"),
        ),
    ),
)  # fmt: skip
