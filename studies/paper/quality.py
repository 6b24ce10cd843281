"""Experiment 3 of the paper, Table 2: quality of text and tasks against FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from studies import published
from studies.bench import Bench, Length, lengths
from studies.decoders import NO_LOCK, NONE, PAPER, Decoder, both
from studies.measures import COST_NOTE, QUALITY_NOTE, RIGHT_NOTE, Outcome, of_problems, of_texts, paper_cost, quality
from studies.plots import Panel, Points, picture
from studies.study import Cell, Plot, Row, Study, Table
from studies.workload import problems
from surelock.measure.task_eval import CanvasKind
from surelock.measure.tasks import TASKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's, and the tasks': names in `TASKS`, problems of each, epsilons and canvases."""

    lengths: tuple[Length, ...] = lengths(
        (64, 32), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256), (512, 512)
    )
    thresholds: tuple[float, ...] = (5e-4, 5e-3)
    num_prompts: int = 120
    tasks: tuple[str, ...] = tuple(TASKS)
    num_problems: int = 24
    task_thresholds: tuple[float, ...] = (5e-4, 5e-3)
    canvases: tuple[CanvasKind, ...] = ("fitted", "padded")


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length of text and each kind of canvas."""
    cells = of_texts(bench, settings, "quality", rules(settings.thresholds), (quality, paper_cost, printed))
    for canvas in settings.canvases:
        asked = problems(bench, settings.tasks, num_per_task=settings.num_problems, levels=(1, 2), canvas=canvas)
        cells += of_problems(bench, "tasks", asked, rules(settings.task_thresholds), canvas=canvas)
    return cells


def rules(thresholds: tuple[float, ...]) -> list[Decoder]:
    """No lock, then both rules at every epsilon."""
    return [NO_LOCK, *(rule for threshold in thresholds for rule in both(threshold))]


def printed(found: Outcome) -> Row:
    """What Table 2 has for this setting."""
    params, label = found.cases[0].params, found.decoder.label
    key = (params.max_tokens, params.steps or 0, label["threshold"])
    ratios = published.TABLE_2.get(key) if label["rule"] == PAPER else None
    return dict(zip(("published_ppl_ratio", "published_flops_ratio"), ratios or (None, None), strict=True))


STUDY: Final = Study(
    number="3",
    name="quality",
    title="Quality against FLOPs",
    method="Held-out texts are continued after their first 64 tokens, fully parallel at temperature 0, without locks, "
    "under the permanent rule and under the paper's literal rule; a causal language model judges the continuations. "
    "Tasks with checkable answers are asked through the chat template, steps = N_gen.",
    settings=Settings(),
    quick=Settings(
        lengths=lengths((64, 32), (64, 64)), num_prompts=6, num_problems=1, task_thresholds=(5e-4,),
        canvases=("fitted",),
        # Those with short answers.
        tasks=("add", "sub", "count", "weekday", "unit", "story", "shop", "json"),
    ),
    grid=grid,
    tables=(
        Table("quality", f"{QUALITY_NOTE} {COST_NOTE} Published: Table 2, LLaDA-8B-Base; padding counts."),
        Table("tasks", RIGHT_NOTE),
    ),
    plots=(
        Plot("quality", "Gen-PPL ratio to no lock against the exact FLOPs ratio, and with its 95 % interval.", picture(
            Panel("quality", "exact_ratio", "ppl_ratio", "rule threshold", level=1.0, joined=False),
            Points("quality", "rule threshold length", "ppl_ratio", NONE, 1.0, "published_ppl_ratio", "x"),
        )),
        Plot("tasks", "Share of tasks answered right, minus that without locks, with a paired 95 % interval.", picture(
            Points("tasks", "rule threshold canvas", "difference", NONE, 0.0)
        )),
    ),
)  # fmt: skip
