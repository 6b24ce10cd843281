"""Noise floor: how small a threshold still measures the model, not its rounding, in each precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from studies.bench import Bench, Length, lengths
from studies.plots import Panel, picture
from studies.study import Cell, Plot, Row, Rows, Study, Table
from surelock.engine.noise_floor import null_pair, null_part
from surelock.measure.instrumented import InstrumentedDecoder as DenseDecoder
from surelock.measure.instrumented import group_canvases
from surelock.ops.step_kl import StepKL
from surelock.params import SamplingParams

FLOAT32, TF32, BFLOAT16 = "float32", "TF32", "bfloat16"
# What changes the shape of a matrix product from one step to the next: other requests, and locks.
BATCH, ALL, ONE_LESS = "batch grows", "all rows, few", "one row less"
# A threshold means something if no more of what should be 0 lies above it.
MAX_SHARE: Final = 0.01
UNCERTAIN: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        num_prompts: half of them texts, half task questions.
        lengths: only the first: N_gen and steps of the run whose canvases are taken.
        moments: when canvases are taken, as shares of the run.
        num_copies: a canvas alone is compared with so many copies of it together.
        num_rows: so many rows of a canvas by themselves are compared with all its rows, and with one row more.
        thresholds: to hold against the noise. `edges`: upper ends of the bins of uncertainty.
    """

    num_prompts: int = 12
    lengths: tuple[Length, ...] = lengths(64)
    moments: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    num_copies: tuple[int, ...] = (3, 16)
    num_rows: tuple[int, ...] = (2, 10, 40)
    thresholds: tuple[float, ...] = (5e-8, 5e-7, 5e-6, 5e-5, 5e-4, 5e-3)
    edges: tuple[float, ...] = (1e-4, 1e-2, 0.1, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Moved:
    """KL in nats, uncertainty and whether the row is visible, of any number of rows."""

    kl: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    is_visible: NDArray[np.bool_]

    @classmethod
    def of(cls, found: StepKL, is_visible: NDArray[np.bool_]) -> Moved:
        """What the engine's op gives."""
        return cls(found.kl.double().cpu().numpy(), found.uncertainty.double().cpu().numpy(), is_visible)

    @classmethod
    def joined(cls, parts: Sequence[Moved]) -> Moved:
        """All of them."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))

    def where(self, chosen: NDArray[np.bool_]) -> Moved:
        """Some of them."""
        return Moved(self.kl[chosen], self.uncertainty[chosen], self.is_visible[chosen])


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each precision of the device, on the canvases of one float32 run."""
    num_texts = (settings.num_prompts + 1) // 2
    texts = [text.canvas for text in bench.texts(num_texts)]
    prompts = [*texts, *bench.questions(settings.num_prompts - num_texts)]
    traced: list[tuple[list[list[int]], Moved]] = []

    def measure(length: Length, precision: str) -> Rows:
        if not traced:
            bench.show(0.0, "the run whose canvases are taken")
            with _precision(bench.llm.transformer, FLOAT32) as model:
                traced.append(_trace(model, prompts, length, settings.moments))
        canvases, steps = traced[0]
        rows: Rows = {"noise_floor": [], "noise_floor_bins": []}
        with _precision(bench.llm.transformer, precision) as model:
            for pair, moved in null_pairs(model, canvases, settings.num_copies, settings.num_rows).items():
                key: Row = {"precision": precision, "pair": pair}
                rows["noise_floor"] += [key | row for row in threshold_rows(moved, steps, settings.thresholds)]
                rows["noise_floor_bins"] += [key | row for row in bin_rows(moved, settings.edges)]
        return rows

    precisions = [FLOAT32, TF32, BFLOAT16] if bench.llm.device.type == "cuda" else [FLOAT32, BFLOAT16]
    return [
        Cell(name=f"null pairs, {each}", measure=lambda length=length, each=each: measure(length, each))  # type: ignore[misc]
        for length in bench.fitting(settings.lengths[:1], prompts)
        for each in precisions
    ]


def null_pairs(
    model: Any, canvases: Sequence[Sequence[int]], num_copies: Sequence[int], num_rows: Sequence[int]
) -> dict[str, Moved]:
    """By kind of pair: each canvas alone against each number of copies; that many of its rows against all, and more."""
    parts: dict[str, list[Moved]] = {BATCH: [], ALL: [], ONE_LESS: []}
    for canvas in canvases:
        is_visible = np.asarray(canvas) != model.config.mask_token_id
        for num in num_copies:
            parts[BATCH].append(Moved.of(null_pair(model, canvas, num), is_visible))
        for num in num_rows:
            positions = sorted({index * len(canvas) // num for index in range(num)})
            others = [position for position in range(len(canvas)) if position not in positions][:1]
            parts[ALL].append(Moved.of(null_part(model, canvas, positions), is_visible[positions]))
            parts[ONE_LESS].append(Moved.of(null_part(model, canvas, positions, others), is_visible[positions]))
    return {pair: Moved.joined(found) for pair, found in parts.items() if found}


def bin_rows(moved: Moved, edges: Sequence[float]) -> list[Row]:
    """Quantiles by uncertainty; bins are open below, the first from 0 on, and empty ones are left out."""
    rows = []
    for rows_of, of_kind in (("visible", moved.is_visible), ("masked", ~moved.is_visible)):
        for low, high in zip((0.0, *edges), edges, strict=False):
            kl = moved.kl[of_kind & (moved.uncertainty <= high) & ((moved.uncertainty > low) | (low == 0))]
            if len(kl):
                levels = {name: float(np.quantile(kl, at)) for name, at in (("median", 0.5), ("p99", 0.99), ("max", 1))}
                key = {"rows": rows_of, "uncertainty_from": low, "uncertainty_to": high, "num_rows": len(kl)}
                rows.append(key | levels)
    return rows


def threshold_rows(null: Moved, steps: Moved, thresholds: Sequence[float]) -> list[Row]:
    """Of visible rows only."""
    own, real = null.where(null.is_visible), steps.where(steps.is_visible)
    uncertain = own.where(own.uncertainty > UNCERTAIN)
    return [
        {
            "threshold": threshold,
            "null_above": float((own.kl > threshold).mean()),
            "uncertain_above": float((uncertain.kl > threshold).mean()) if len(uncertain.kl) else None,
            "steps_below": float((real.kl <= threshold).mean()),
            "means_something": "yes" if (own.kl > threshold).mean() <= MAX_SHARE else "no",
        }
        for threshold in thresholds
    ]


def _trace(
    model: Any, prompts: Sequence[Sequence[int]], length: Length, moments: Sequence[float]
) -> tuple[list[list[int]], Moved]:
    """Canvases as forwards of a run without locks read them, and how far its rows moved from step to step."""
    decoder, wanted = DenseDecoder(model), {max(1, round(share * length.steps)) for share in moments}
    params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, ignore_eos=True, lock=None)
    canvases: list[list[int]] = []
    parts = []
    for alike in group_canvases(prompts):
        size = decoder.batch_size(len(prompts[alike[0]]) + length.num_generated)
        for start in range(0, len(alike), size):
            for step in decoder.steps([prompts[index] for index in alike[start : start + size]], params):
                if step.step in wanted:
                    canvases += step.inputs.tolist()
                if step.step > 1:
                    moved = StepKL(step.kl.flatten(), step.uncertainty.flatten())
                    parts.append(Moved.of(moved, ~step.masked.flatten().cpu().numpy()))
    return canvases, Moved.joined(parts)


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


STUDY: Final = Study(
    number="open",
    name="noise_floor",
    title="Which thresholds mean something in which precision?",
    method="Canvases of a float32 run without locks, at several moments of it, computed in the engine's own forward: "
    "alone against among copies of themselves ({num_copies} together; 'batch grows'); and {num_rows} rows, which read "
    "the keys and values of the others, against all rows ('all rows, few') and against one row more ('one row less'), "
    "as rows lock. Both sides are the same mathematics; matrix products of other shapes round differently, so each KL "
    "should be 0 and is rounding. The divergence itself is computed in float32 from hidden rows of either precision. "
    "Visible rows hold a token: only they can lock. Uncertainty is 1 - max p. A threshold means something here if at "
    "most 1 % of the null pairs of visible rows lie above it: below that, rounding decides whether a row that stands "
    "still may lock.",
    settings=Settings(),
    quick=Settings(num_prompts=2, lengths=lengths(24), moments=(0.3, 0.7), num_copies=(3,), num_rows=(2, 10)),
    grid=grid,
    tables=(
        Table("noise_floor", "Visible rows. Null above: share of pairs, which should be equal, whose KL is larger "
              "than epsilon; uncertain: of those with uncertainty above 0.1. Steps below: share of the rows of the "
              "float32 run whose KL from one step to the next is at most epsilon."),
        Table("noise_floor_bins", "KL in nats between two computations of the same."),
    ),
    plots=(
        Plot("noise_floor", "KL of null pairs of visible rows by uncertainty, 99th percentile; and the share of "
             "visible rows above a threshold.", picture(
            Panel("noise_floor_bins", "uncertainty_to", "p99", "precision pair", log="xy", only={"rows": "visible"}),
            Panel("noise_floor", "threshold", "null_above", "precision pair", level=MAX_SHARE, log="x"),
        )),
    ),
)  # fmt: skip
