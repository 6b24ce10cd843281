"""Noise floor: how small a threshold still measures the model, not its rounding, in each precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch

from surelock.engine.noise_floor import null_pair, null_part
from surelock.eval.dense import DenseDecoder, group_canvases
from surelock.experiments import wording
from surelock.experiments.lengths import Length, of
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.models.transformer import Transformer
from surelock.ops.step_kl import StepKL
from surelock.params import SamplingParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Canvas, Workbench

Array = npt.NDArray[np.float64]

FLOAT32, TF32, BFLOAT16 = "float32", "TF32", "bfloat16"
# What changes the shape of a matrix product from one step to the next: other requests, and locks.
BATCH, ALL, ONE_LESS = "batch grows", "all rows, few", "one row less"
# A threshold means something if no more of what should be 0 lies above it.
MAX_SHARE: Final = 0.01
_QUANTILES: Final = (("median", 0.5), ("p99", 0.99), ("max", 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        num_prompts: half of them texts, half task questions.
        lengths: only the first: N_gen and steps of the run whose canvases are taken.
        moments: when canvases are taken, as shares of the run.
        num_copies: a canvas alone is compared with so many copies of it together.
        num_rows: so many rows of a canvas by themselves are compared with all its rows, and with one row more.
        thresholds: to hold against the noise.
        edges: upper ends of the bins of uncertainty.
    """

    num_prompts: int = 12
    lengths: tuple[Length, ...] = of(64)
    moments: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    num_copies: tuple[int, ...] = (3, 16)
    num_rows: tuple[int, ...] = (2, 10, 40)
    thresholds: tuple[float, ...] = (5e-8, 5e-7, 5e-6, 5e-5, 5e-4, 5e-3)
    edges: tuple[float, ...] = (1e-4, 1e-2, 0.1, 0.5, 1.0)


_QUICK: Final = Settings(num_prompts=2, lengths=of(24), moments=(0.3, 0.7), num_copies=(3,), num_rows=(2, 10))

BIN_COLUMNS: Final = (
    Column("precision", "precision"),
    Column("pair", "pair"),
    Column("rows", "rows"),
    Column("uncertainty_from", "uncertainty from", "{:g}"),
    Column("uncertainty_to", "to", "{:g}"),
    Column("num_rows", "pairs"),
    Column("median", "median KL", "{:.1e}"),
    Column("p99", "99th percentile", "{:.1e}"),
    Column("max", "largest", "{:.1e}"),
)
THRESHOLD_COLUMNS: Final = (
    Column("precision", "precision"),
    Column("pair", "pair"),
    Column("threshold", "epsilon", "{:.0e}"),
    Column("null_above", "null pairs above", "{:.2%}"),
    Column("uncertain_above", "of uncertain rows", "{:.2%}"),
    Column("steps_below", "real steps at or below", "{:.1%}"),
    Column("means_something", "means something"),
)
VISIBLE, MASKED = "visible", "masked"
# Precision, and what differs between the two sides.
Kind = tuple[str, str]
UNCERTAIN: Final = 0.1


@dataclass(frozen=True, slots=True)
class Moved:
    """KL in nats, uncertainty and whether the row is visible, of any number of rows."""

    kl: Array
    uncertainty: Array
    is_visible: npt.NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[Moved]) -> Moved:
        """All of them."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))

    def where(self, chosen: npt.NDArray[np.bool_]) -> Moved:
        """Some of them."""
        return Moved(self.kl[chosen], self.uncertainty[chosen], self.is_visible[chosen])


def run(bench: Workbench) -> Result:
    """Compute canvases of real runs alone and among copies, in every precision the device has."""
    settings = bench.settings(Settings(), _QUICK)
    num_texts = (settings.num_prompts + 1) // 2
    texts = [text.canvas for text in bench.prompts.texts(num_texts)]
    prompts = [*texts, *bench.prompts.questions(settings.num_prompts - num_texts)]
    fitting, left_out = bench.fitting(settings.lengths[:1], prompts)
    found: dict[Kind, Moved] = {}
    canvases: list[list[int]] = []
    steps: Moved | None = None
    if fitting:
        with _precision(bench.llm.transformer, FLOAT32) as model:
            bench.progress("the run whose canvases are taken")
            canvases, steps = _trace(model, prompts, fitting[0], settings.moments)
        for precision in _precisions(bench.llm.device):
            with _precision(bench.llm.transformer, precision) as model:
                bench.progress(f"null pairs, {precision}")
                pairs = null_pairs(model, canvases, settings.num_copies, settings.num_rows)
                found |= {(precision, pair): moved for pair, moved in pairs.items()}
    bins = [row for kind, moved in found.items() for row in bin_rows(kind, moved, settings.edges)]
    held = [
        row
        for kind, moved in found.items()
        if steps is not None
        for row in threshold_rows(kind, moved, steps, settings.thresholds)
    ]
    return Result(
        number=FINDING.number,
        name=FINDING.name,
        title=FINDING.title,
        method=(
            "Canvases of a float32 run without locks, at several moments of it, computed in the engine's own forward: "
            f"alone against among copies of themselves ({wording.listed([str(num) for num in settings.num_copies])} "
            f"together; {BATCH!r}); and {wording.listed([str(num) for num in settings.num_rows])} rows, which read the "
            f"keys and values of the others, against all rows ({ALL!r}) and against one row more ({ONE_LESS!r}), as "
            "rows lock. Both sides are the same mathematics; matrix products of other shapes round differently, so "
            "each KL should be 0 and is rounding. The divergence itself is computed in float32 from hidden rows of "
            "either precision. Visible rows hold a token: only they can lock. Uncertainty is 1 - max p. A threshold "
            f"means something here if at most {MAX_SHARE:.0%} of the null pairs of visible rows lie above it: below "
            "that, rounding decides whether a row that stands still may lock."
        ),
        facts=bench.facts(settings, num_canvases=len(canvases), prompts=bench.prompts.question_source),
        tables=[
            Table("noise_floor", _THRESHOLD_NOTE, THRESHOLD_COLUMNS, held),
            Table("noise_floor_bins", "KL in nats between two computations of the same.", BIN_COLUMNS, bins),
        ],
        pictures=[Picture("noise_floor", _CAPTION, lambda: _draw(bins, held))] if found else [],
        findings=_findings(found, held),
        left_out=left_out,
    )


def null_pairs(
    model: Transformer, canvases: Sequence[Sequence[int]], num_copies: Sequence[int], num_rows: Sequence[int]
) -> dict[str, Moved]:
    """By kind of pair: each canvas alone against each number of copies; that many of its rows against all, and more."""
    mask_id = model.config.mask_token_id
    parts: dict[str, list[Moved]] = {BATCH: [], ALL: [], ONE_LESS: []}
    for canvas in canvases:
        is_visible = np.asarray(canvas) != mask_id
        for num in num_copies:
            parts[BATCH].append(_moved(null_pair(model, canvas, num), is_visible))
        for num in num_rows:
            positions = sorted({index * len(canvas) // num for index in range(num)})
            others = [position for position in range(len(canvas)) if position not in positions][:1]
            parts[ALL].append(_moved(null_part(model, canvas, positions), is_visible[positions]))
            parts[ONE_LESS].append(_moved(null_part(model, canvas, positions, others), is_visible[positions]))
    return {pair: Moved.joined(found) for pair, found in parts.items() if found}


def bin_rows(kind: Kind, moved: Moved, edges: Sequence[float]) -> list[Row]:
    """Values of `BIN_COLUMNS`; bins are open below, the first from 0 on, and empty ones are left out."""
    rows = []
    for rows_of, of_kind in ((VISIBLE, moved.is_visible), (MASKED, ~moved.is_visible)):
        for low, high in zip((0.0, *edges), edges, strict=False):
            inside = (moved.uncertainty <= high) & ((moved.uncertainty > low) | (low == 0))
            kl = moved.kl[of_kind & inside]
            if len(kl):
                rows.append(
                    {
                        "precision": kind[0],
                        "pair": kind[1],
                        "rows": rows_of,
                        "uncertainty_from": low,
                        "uncertainty_to": high,
                        "num_rows": len(kl),
                    }
                    | {name: float(np.quantile(kl, at)) for name, at in _QUANTILES}
                )
    return rows


def threshold_rows(kind: Kind, null: Moved, steps: Moved, thresholds: Sequence[float]) -> list[Row]:
    """Values of `THRESHOLD_COLUMNS`: of visible rows only."""
    own, real = null.where(null.is_visible), steps.where(steps.is_visible)
    uncertain = own.where(own.uncertainty > UNCERTAIN)
    rows = []
    for threshold in thresholds:
        above = float((own.kl > threshold).mean())
        rows.append(
            {
                "precision": kind[0],
                "pair": kind[1],
                "threshold": threshold,
                "null_above": above,
                "uncertain_above": float((uncertain.kl > threshold).mean()) if len(uncertain.kl) else None,
                "steps_below": float((real.kl <= threshold).mean()),
                "means_something": "yes" if above <= MAX_SHARE else "no",
            }
        )
    return rows


def _trace(
    model: Transformer, prompts: Sequence[Canvas], length: Length, moments: Sequence[float]
) -> tuple[list[list[int]], Moved]:
    """Canvases as forwards of a run without locks read them, and how far its rows moved from step to step."""
    decoder = DenseDecoder(model)
    wanted = {max(1, round(share * length.steps)) for share in moments}
    params = SamplingParams(max_tokens=length.num_generated, steps=length.steps, ignore_eos=True, lock=None)
    canvases: list[list[int]] = []
    parts = []
    for alike in group_canvases(prompts):
        size = decoder.batch_size(len(prompts[alike[0]]) + length.num_generated)
        for start in range(0, len(alike), size):
            batch = [prompts[index] for index in alike[start : start + size]]
            for step in decoder.steps(batch, params):
                if step.step in wanted:
                    canvases += step.inputs.tolist()
                if step.step > 1:
                    moved = StepKL(step.kl.flatten(), step.uncertainty.flatten())
                    parts.append(_moved(moved, ~step.masked.flatten().cpu().numpy()))
    return canvases, Moved.joined(parts)


def _precisions(device: torch.device) -> list[str]:
    return [FLOAT32, TF32, BFLOAT16] if device.type == "cuda" else [FLOAT32, BFLOAT16]


@contextmanager
def _precision(model: Transformer, precision: str) -> Iterator[Transformer]:
    """The model in that type of number, its own weights if they are of that type."""
    dtype = torch.bfloat16 if precision == BFLOAT16 else torch.float32
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == TF32 else "highest")
    try:
        yield model if model.dtype == dtype else copy.deepcopy(model).to(dtype)
    finally:
        torch.set_float32_matmul_precision(before)


def _moved(found: StepKL, is_visible: npt.NDArray[np.bool_]) -> Moved:
    kl, uncertainty = (values.double().cpu().numpy() for values in found)
    return Moved(kl, uncertainty, is_visible)


def _findings(found: dict[Kind, Moved], held: Sequence[Row]) -> list[str]:
    sentences = []
    for (precision, pair), moved in found.items():
        own = moved.where(moved.is_visible)
        median, p99, largest = (float(np.quantile(own.kl, at)) for _, at in _QUANTILES)
        here = [row for row in held if (row["precision"], row["pair"]) == (precision, pair)]
        fine = [row["threshold"] for row in here if row["means_something"] == "yes"]
        verdict = (
            f"thresholds from {wording.threshold(min(fine))} mean something" if fine else "no threshold means something"
        )
        sentence = (
            f"{precision}, {pair}: of {len(own.kl)} null pairs of visible rows the median KL is {_nats(median)}, the "
            f"99th percentile {_nats(p99)}, the largest {_nats(largest)}: {verdict}"
        )
        if lost := [row for row in here if row["means_something"] == "no"]:
            sentence += (
                f"; at {wording.threshold(lost[-1]['threshold'])} rounding alone would keep "
                f"{lost[-1]['null_above']:.1%} of rows that stand still from locking"
            )
        uncertain, settled = own.where(own.uncertainty > UNCERTAIN), own.where(own.uncertainty <= UNCERTAIN)
        if len(uncertain.kl) and len(settled.kl) and largest > 0:
            high, low = (_nats(float(np.quantile(part.kl, 0.99))) for part in (uncertain, settled))
            sentence += f". Where uncertainty is above {UNCERTAIN:g} the 99th percentile is {high}, elsewhere {low}"
        sentences.append(f"{sentence}.")
    return sentences


def _nats(value: float) -> str:
    return wording.scientific(value, 1)


def _draw(bins: Sequence[Row], held: Sequence[Row]) -> Figure:
    from surelock.experiments import style

    figure, ((left, right),) = style.axes_grid(1, 2, height=4.8, width=9.6)
    kinds = list(dict.fromkeys((row["precision"], row["pair"]) for row in held))
    colours = dict(zip(dict.fromkeys(precision for precision, _ in kinds), style.SERIES, strict=False))
    looks = {BATCH: ("o", style.DOTTED), ALL: ("s", "-"), ONE_LESS: ("^", style.DASHED)}
    edges = sorted({row["uncertainty_to"] for row in bins})
    for place, (precision, pair) in enumerate(kinds):
        colour, (marker, line) = colours[precision], looks[pair]
        own = [row for row in bins if (row["precision"], row["pair"]) == (precision, pair) and row["rows"] == VISIBLE]
        x = [edges.index(row["uncertainty_to"]) + 0.09 * (place - (len(kinds) - 1) / 2) for row in own]
        # Equal posteriors have a KL of 0, which a logarithmic axis cannot show.
        median, p99, largest = ([max(row[key], _LEAST) for row in own] for key, _ in _QUANTILES)
        left.vlines(x, median, largest, color=colour, linewidth=1.2)
        left.plot(x, p99, color=colour, marker=marker, markersize=5, linestyle="none")
        curve = [row for row in held if (row["precision"], row["pair"]) == (precision, pair)]
        right.plot(
            [row["threshold"] for row in curve], [100 * row["null_above"] for row in curve], color=colour,
            marker=marker, markersize=5, linestyle=line, label=f"{precision}, {pair}",
        )  # fmt: skip
    left.set_yscale("log")
    lows = (0.0, *edges)
    left.set_xticks(range(len(edges)), [f"{low:g} to\n{high:g}" for low, high in zip(lows, edges, strict=False)])
    left.set_xlabel("uncertainty 1 - max p")
    left.set_ylabel("KL of a null pair, nats")
    thresholds = sorted({row["threshold"] for row in held})
    for threshold in thresholds:
        left.axhline(threshold, color=style.QUIET, linestyle=style.DOTTED, linewidth=0.9)
    real = [row for row in held if (row["precision"], row["pair"]) == kinds[0]]
    right.plot(
        [row["threshold"] for row in real], [100 * (1 - row["steps_below"]) for row in real], color=style.INK,
        marker="*", label="steps of a real run",
    )  # fmt: skip
    right.axhline(100 * MAX_SHARE, color=style.QUIET, linewidth=0.9)
    style.epsilon_axis(right, thresholds)
    right.set_ylabel("visible rows with KL above epsilon, %")
    right.set_ylim(-2, 102)
    style.legend_below(figure, [left, right], columns=4)
    return figure


_LEAST: Final = 1e-16
_THRESHOLD_NOTE: Final = (
    "Visible rows. Null pairs above: share of pairs, which should be equal, whose KL is larger than epsilon; of "
    f"uncertain rows: those with uncertainty above {UNCERTAIN:g}. Real steps at or below: share of the rows of the "
    "float32 run whose KL from one step to the next is at most epsilon."
)
_CAPTION: Final = (
    "Left: KL of null pairs of visible rows by uncertainty, from the median (0 drawn at 1e-16) to the largest, the "
    "99th percentile marked; dotted: thresholds. Right: share of visible rows above a threshold; the line is the 1 % "
    "allowed."
)
FINDING: Final = Experiment("finding", "noise_floor", "Which thresholds mean something in which precision?", run)
