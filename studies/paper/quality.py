"""Experiments 3 and 6 of the paper, Tables 2 and 5: quality against FLOPs, and over orders of magnitude of epsilon."""

from __future__ import annotations

import torch

from studies import published
from studies.bench import Bench, lengths, problems
from studies.decoders import NO_LOCK, NONE, PAPER, Decoder, both
from studies.measures import ANSWERED, COST_NOTE, QUALITY_NOTE, RIGHT_NOTE, Comparison, Outcome, paper_cost, quality
from studies.plots import Panel, Plot, Points
from studies.study import Cell, Row, Settings, Study, Table
from surelock.measure.tasks import TASKS
from surelock.params import MIN_HALF_PRECISION_KL


def by_length(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length of text and each kind of canvas."""
    texts = Comparison(bench, "quality", rules(settings.thresholds), (quality, paper_cost, printed))
    cells, tasks = texts.of_texts(settings), Comparison(bench, "tasks", rules(settings.task_thresholds), ANSWERED)
    for canvas in settings.canvases:
        asked = problems(bench, settings.tasks, num_per_task=settings.num_problems, levels=(1, 2), canvas=canvas)
        cells += tasks.of(asked, canvas=canvas)
    return cells


def rules(thresholds: tuple[float, ...]) -> list[Decoder]:
    """No lock, then both rules at every epsilon."""
    return [NO_LOCK, *(rule for threshold in thresholds for rule in both(threshold))]


def at_thresholds(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length, and all epsilons that the precision can measure."""
    least = 0.0 if bench.llm.dtype == torch.float32 else MIN_HALF_PRECISION_KL
    for each in settings.thresholds:
        if each < least:
            bench.leave_out(f"epsilon {each:g}: below {least:g} half precision measures rounding; use --dtype float32")
    decoders = rules(tuple(each for each in settings.thresholds if each >= least))
    return Comparison(bench, "thresholds", decoders, (quality, paper_cost, printed)).of_texts(settings)


def printed(found: Outcome) -> Row:
    """What Table 2 or 5 has for this setting; both have the same at N_gen = steps = 64."""
    num, steps, epsilon = found.params.max_tokens, found.params.steps or 0, found.decoder.label["threshold"]
    ratios = published.TABLE_5.get(epsilon) if num == steps == 64 else published.TABLE_2.get((num, steps, epsilon))
    return published.columns(published.RATIOS, ratios if found.decoder.label["rule"] == PAPER else None)


QUALITY = Study(
    number="3", name="quality", title="Quality against FLOPs",
    method="Held-out texts are continued after their first 64 tokens, fully parallel at temperature 0, without locks, "
    "under the permanent rule and under the paper's literal rule; a causal language model judges the continuations. "
    "Tasks with checkable answers are asked through the chat template, steps = N_gen.",
    settings={
        "lengths": lengths((64, 32), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256), (512, 512)),
        "thresholds": (5e-4, 5e-3), "num_prompts": 120, "tasks": tuple(TASKS), "num_problems": 24,
        "task_thresholds": (5e-4, 5e-3), "canvases": ("fitted", "padded"),
    },
    quick={
        "lengths": lengths((64, 32), (64, 64)), "num_prompts": 6, "num_problems": 1, "task_thresholds": (5e-4,),
        "canvases": ("fitted",), "tasks": ("add", "sub", "count", "weekday", "unit", "story", "shop", "json"),
    },
    grid=by_length,
    tables=(
        Table("quality", f"{QUALITY_NOTE} {COST_NOTE} Published: Table 2, LLaDA-8B-Base; padding counts."),
        Table("tasks", RIGHT_NOTE),
    ),
    plots=(
        Plot("quality", "Gen-PPL ratio to no lock against the exact FLOPs ratio, and with its 95 % interval.",
            Panel("quality", "exact_ratio", "ppl_ratio", "rule threshold", level=1.0, joined=False),
            Points("quality", "rule threshold length", "ppl_ratio", NONE, 1.0, "published_ppl_ratio", "x"),
        ),
        Plot("tasks", "Share of tasks answered right, minus that without locks, with a paired 95 % interval.",
            Points("tasks", "rule threshold canvas", "difference", NONE, 0.0)
        ),
    ),
)  # fmt: skip

THRESHOLDS = Study(
    number="6", name="thresholds", title="Thresholds from 5e-8 to 5e-2",
    method="The text continuations of experiment 3 at N_gen/steps {lengths}, with epsilon from 5e-8 to 5e-2, under the "
    "permanent rule and the paper's literal rule.",
    settings={"lengths": lengths(64), "thresholds": (5e-8, 5e-7, 5e-6, 5e-5, 5e-4, 5e-3, 5e-2), "num_prompts": 120},
    quick={"thresholds": (5e-8, 5e-6, 5e-4, 5e-3, 5e-2), "num_prompts": 6},
    grid=at_thresholds,
    tables=(Table("thresholds", f"{QUALITY_NOTE} {COST_NOTE}"),),
    plots=(
        Plot("thresholds", "Gen-PPL ratio (band: 95 % interval over prompts), exact FLOPs ratio and agreement against "
             "epsilon. Diamonds: the paper's Table 5 (LLaDA-8B-Base; FLOPs with padding). Dotted: masked "
             "floor.",
            Panel("thresholds", "threshold", "ppl_ratio", "rule", "length", level=1.0,
                  published="published_ppl_ratio", log="x"),
            Panel("thresholds", "threshold", "exact_ratio", "rule", "length", level="masked_floor",
                  published="published_flops_ratio", log="x"),
            Panel("thresholds", "threshold", "agreement", "rule", "length", log="x"),
        ),
    ),
)  # fmt: skip
