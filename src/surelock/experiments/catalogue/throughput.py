"""Experiment 4 of the paper, Figure 3: tokens per second against batch size and length, of runs and of single steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from surelock.experiments import published, wording
from surelock.experiments.lengths import Length, of
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Keep, Picture, Progress, Result, Row, Table
from surelock.experiments.rules import DEFAULT, NONE, PAPER, both
from surelock.params import SamplingParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.bench.driving import Job, WholeRun
    from surelock.bench.subject import Subject
    from surelock.engine.request import Request
    from surelock.experiments.workbench import Options, Workbench
    from surelock.models.transformer import Transformer


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The paper's."""

    lengths: tuple[Length, ...] = of(64, 256, 1024)
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    threshold: float = 5e-3


QUICK: Final = Settings(lengths=of(64), batch_sizes=(1, 2, 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeSettings:
    """Of random weights: canvases of 128 to 4,096 positions.

    Attributes:
        max_rows: of a step; more take minutes.
    """

    lengths: tuple[Length, ...] = of(64, 256, 1024, 1984, 4032)
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    num_prompt: int = 64
    max_rows: int = 8704


QUICK_SHAPE: Final = ShapeSettings(lengths=of(64), batch_sizes=(1, 2))

COLUMNS: Final = (
    Column("num_generated", "N_gen"),
    Column("batch_size", "batch"),
    Column("rule", "rule"),
    Column("seconds", "seconds", "{:.3g}"),
    Column("tokens_per_s", "E2E-TPS", "{:.1f}"),
    Column("speed_up", "TPS ratio", "{:.2f}"),
    Column("drift", "drift", "{:.2f}"),
    Column("active_ratio", "r-bar", "{:.3f}"),
    Column("possible", "1 / r-bar", "{:.2f}"),
    Column("published_speed_up", "published TPS ratio", "{:.2f}"),
)
STEP_COLUMNS: Final = (
    Column("num_generated"),
    Column("batch_size"),
    Column("rule"),
    Column("share"),
    Column("tokens_per_s"),
    Column("ratio"),
)
# Points of a curve of step-TPS; each is a mean over its part of the run.
NUM_PARTS: Final = 16


@dataclass(frozen=True, slots=True)
class Timed:
    """One run of a batch: seconds of each step, of the whole, and the share of rows computed."""

    steps: list[float]
    seconds: float
    active_ratio: float


def run(bench: Workbench) -> Result:
    """Time whole runs without locks, with the default rule, with the paper's, and without locks again."""
    from surelock.bench.driving import Job

    settings = bench.settings(Settings(), QUICK)
    texts = bench.prompts.texts(max(settings.batch_sizes))
    lengths, left_out = bench.fitting(settings.lengths, [text.canvas for text in texts])
    rows: list[Row] = []
    steps: list[Row] = []
    for length in lengths:
        for batch_size in settings.batch_sizes:
            prompts = [list(text.canvas) for text in texts[:batch_size]]
            num_positions = max(len(prompt) for prompt in prompts) + length.num_generated
            jobs = {
                name: [
                    Job(prompt, SamplingParams(max_tokens=length.num_generated, steps=length.steps, lock=lock))
                    for prompt in prompts
                ]
                for name, lock in ((NONE, None), *((rule.name, rule.lock) for rule in both(settings.threshold)))
            }
            bench.progress(_setting(length, batch_size))
            timing = in_turn if bench.llm.device.type == "cpu" else one_after_another
            found, drift = timing(bench.llm.transformer, jobs, num_positions)
            own, own_steps = _rows(found, length, batch_size, drift)
            rows += own
            steps += own_steps
    method = (
        "Whole runs of the first texts' 64-token prompts, decoded together without locks, under the default rule and "
        f"under the paper's (epsilon {wording.threshold(settings.threshold)}). On a CPU the three advance in turn, a "
        "step at a time, so that whatever else the machine does meets all of them; on a GPU they run one after another "
        "after a warm-up, and without locks once more, and drift is the second such run over the first. E2E-TPS: "
        "generated tokens / seconds, until the device is done."
    )
    return _result(bench.facts(settings, prompts=bench.prompts.text_source), method, rows, steps, left_out)


def run_shape(shape: str, options: Options, *, device: Any, dtype: Any, progress: Progress, keep: Keep) -> Result:
    """Cost alone, on random weights of a named shape, with locks that follow the scripts of `surelock bench`.

    After each setting `keep` is given what there is, without pictures, so that a run that is cut off leaves it.
    """
    from surelock.bench.driving import LEAST_TIMED_STEPS, NUM_TIMED_STEPS, NUM_WARM_UP_STEPS
    from surelock.bench.subject import random_subject
    from surelock.experiments.step_times import NUM_POINTS, NUM_STEPS, SECONDS

    settings = options.settings(ShapeSettings(), QUICK_SHAPE)
    subject = random_subject(shape, "default", device=device, dtype=dtype)
    asked = list(product(settings.lengths, settings.batch_sizes))
    too_large = {each: _too_large(subject, settings, *each) for each in asked}
    left_out = [line for line in too_large.values() if line is not None]
    to_come = [each for each in asked if too_large[each] is None]
    method = (
        f"Cost only: random weights of the shape {shape}, prompts of {settings.num_prompt} random tokens, one token a "
        "step, locks that follow a script: the default rule's (the masks, and eight tokens that have just settled) or "
        "the active rows of the paper's Figure 2 (m = 20, epsilon = 5e-3; beyond 1,024 tokens the curve of 1,024). "
        f"Without locks {NUM_TIMED_STEPS} steady steps are timed and multiplied. With locks {NUM_STEPS} steps are "
        f"timed at each of up to {NUM_POINTS + 1} points of the run, divergences measured as a real rule would, and "
        f"every step is given the time of its rows. Where that would take more than {SECONDS:g} s fewer steps are "
        f"timed, at least {LEAST_TIMED_STEPS}. Before them come {NUM_WARM_UP_STEPS} of warm-up and, on a GPU, a run of "
        "the same steps that captures their graphs."
    )
    own_settings = {field.name: getattr(settings, field.name) for field in fields(settings)}
    facts = {
        **subject.facts,
        "lock": "scripted",
        "schedule": "default and paper",
        **own_settings,
        "lengths": [str(length) for length in settings.lengths],
        "batch_sizes": list(settings.batch_sizes),
    }
    rows: list[Row] = []
    steps: list[Row] = []
    while to_come:
        length, batch_size = to_come.pop(0)
        progress(_setting(length, batch_size))
        own, own_steps = _rows(_timed_on_shape(subject, settings, length, batch_size), length, batch_size, None)
        rows += own
        steps += own_steps
        if to_come:
            missing = [f"{_setting(*each)}: not measured when this was written" for each in to_come]
            keep(replace(_result(facts, method, rows, steps, [*left_out, *missing], shape), pictures=[]))
    return _result(facts, method, rows, steps, left_out, shape)


def _timed_on_shape(subject: Subject, settings: ShapeSettings, length: Length, batch_size: int) -> dict[str, Timed]:
    from surelock.experiments.step_times import sampled_runs, unlocked_ms

    num = length.num_generated
    found = {NONE: _steady(unlocked_ms(subject, batch_size, settings.num_prompt, num), num)}
    sampled = sampled_runs(subject, ["default", "paper"], batch_size, settings.num_prompt, num)
    for name, schedule in ((DEFAULT, "default"), (PAPER, "paper")):
        each = sampled[schedule]
        seconds = [ms / 1000 for ms in each.milliseconds]
        ratio = sum(each.rows) / (num * (settings.num_prompt + num))
        found[name] = Timed(seconds, sum(seconds), ratio)
    return found


def _setting(length: Length, batch_size: int) -> str:
    return f"N_gen {length.num_generated}, batch {batch_size}"


def _too_large(subject: Subject, settings: ShapeSettings, length: Length, batch_size: int) -> str | None:
    """Why a setting is left out."""
    if (reason := length.unscripted(settings.num_prompt, subject.config.max_sequence_length)) is not None:
        return f"N_gen/steps {length}, batch {batch_size}: {reason}"
    num_rows = batch_size * (settings.num_prompt + length.num_generated)
    if num_rows > settings.max_rows:
        name = _setting(length, batch_size)
        return f"{name}: {num_rows} rows a step, more than the {settings.max_rows} measured here"
    return None


def in_turn(model: Transformer, jobs: dict[str, list[Job]], num_positions: int) -> tuple[dict[str, Timed], None]:
    """Runs that advance together, a step of each at a time."""
    from surelock.bench.driving import Driver, bench_config

    drivers = {name: Driver(model, bench_config(len(each), num_positions)) for name, each in jobs.items()}
    for name, each in jobs.items():
        drivers[name].warm_up(each, len(each) * num_positions)
    requests = {name: drivers[name].start(each) for name, each in jobs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    while any(driver.engine.has_unfinished for driver in drivers.values()):
        for name, driver in drivers.items():
            start = time.perf_counter()
            driver.engine.step(watched=False)
            seconds[name].append(time.perf_counter() - start)
    return {name: Timed(seconds[name], sum(seconds[name]), _active_ratio(requests[name])) for name in jobs}, None


def one_after_another(
    model: Transformer, jobs: dict[str, list[Job]], num_positions: int
) -> tuple[dict[str, Timed], float]:
    """Runs each with the device to itself, and no lock again at the end; its two runs are averaged."""
    from surelock.bench.driving import Driver, bench_config, run_to_end

    driver = Driver(model, bench_config(len(jobs[NONE]), num_positions))
    driver.warm_up(jobs[NONE], len(jobs[NONE]) * num_positions)
    for each in jobs.values():
        run_to_end(driver, each)
    found = {name: _timed(run_to_end(driver, each)) for name, each in jobs.items()}
    before, again = found[NONE], _timed(run_to_end(driver, jobs[NONE]))
    steps = [(a + b) / 2 for a, b in zip(before.steps, again.steps, strict=True)]
    return found | {NONE: Timed(steps, (before.seconds + again.seconds) / 2, 1.0)}, again.seconds / before.seconds


def _active_ratio(requests: Sequence[Request]) -> float:
    rows = sum(sum(request.active_rows) for request in requests)
    return rows / sum(request.num_positions * request.num_steps for request in requests)


def _timed(run: WholeRun) -> Timed:
    # With captured graphs the host is one step ahead, so the last mark may come before the last step is done.
    num_steps = run.requests[0].num_steps
    ends = np.interp(np.arange(1, num_steps + 1), np.arange(1, len(run.marks) + 1), run.marks)
    return Timed(np.diff(ends, prepend=0.0).tolist(), run.seconds, _active_ratio(run.requests))


def _steady(milliseconds: float, num_steps: int) -> Timed:
    return Timed([milliseconds / 1000] * num_steps, milliseconds * num_steps / 1000, 1.0)


def _rows(found: dict[str, Timed], length: Length, batch_size: int, drift: float | None) -> tuple[list[Row], list[Row]]:
    rows: list[Row] = []
    steps: list[Row] = []
    base = found[NONE]
    tokens = batch_size * length.num_generated
    for name, timed in found.items():
        printed = published.FIGURE_3A.get((length.num_generated, batch_size)) if name == PAPER else None
        rows.append(
            {
                "num_generated": length.num_generated,
                "batch_size": batch_size,
                "rule": name,
                "seconds": timed.seconds,
                "tokens_per_s": tokens / timed.seconds,
                "speed_up": base.seconds / timed.seconds,
                "drift": drift if name == NONE else None,
                "active_ratio": timed.active_ratio,
                "possible": 1 / timed.active_ratio,
                "published_speed_up": printed,
            }
        )
        per_step = tokens / length.steps
        before = _parts(base.steps)
        for (share, seconds), (_, unlocked) in zip(_parts(timed.steps), before, strict=True):
            steps.append(
                {
                    "num_generated": length.num_generated,
                    "batch_size": batch_size,
                    "rule": name,
                    "share": share,
                    "tokens_per_s": per_step / seconds,
                    "ratio": unlocked / seconds,
                }
            )
    return rows, steps


def _parts(seconds: Sequence[float]) -> list[tuple[float, float]]:
    """Middle of each part of the run, as a share of it, and its mean seconds per step."""
    parts = np.array_split(np.array(seconds), min(NUM_PARTS, len(seconds)))
    ends = np.cumsum([len(part) for part in parts]) / len(seconds)
    return [
        (float(end) - len(part) / len(seconds) / 2, float(part.mean())) for end, part in zip(ends, parts, strict=True)
    ]


def _result(
    facts: dict[str, Any], method: str, rows: list[Row], steps: list[Row], left_out: list[str], shape: str | None = None
) -> Result:
    name = EXPERIMENT.name if shape is None else f"{EXPERIMENT.name}_{shape}"
    return Result(
        number=EXPERIMENT.number,
        name=name,
        title=EXPERIMENT.title if shape is None else f"{EXPERIMENT.title}: cost on the shape {shape}",
        method=method,
        facts=facts,
        tables=[
            Table(
                name,
                "1 / r-bar: the ratio there would be if a step cost as much as its rows. Published: Figure 3a, "
                "LLaDA-8B, epsilon 5e-3, against its own code without locks.",
                COLUMNS,
                rows,
            ),
            Table(f"{name}_by_step", "Step-TPS over the run.", STEP_COLUMNS, steps, on_page=False),
        ],
        pictures=[
            Picture(
                f"{name}_runs",
                "Tokens per second of whole runs, against no locks. Diamonds: the paper's Figure 3a (LLaDA-8B).",
                lambda: _draw_runs(rows),
            ),
            Picture(
                f"{name}_steps",
                "Tokens per second of a step against no locks, over the run, at the largest batch of each length.",
                lambda: _draw_steps(steps),
            ),
        ]
        if rows
        else [],
        findings=_findings(rows, steps),
        left_out=left_out,
    )


def _findings(rows: list[Row], steps: list[Row]) -> list[str]:
    found = []
    for length in sorted({row["num_generated"] for row in rows}):
        for name in (DEFAULT, PAPER):
            here = [row for row in rows if row["num_generated"] == length and row["rule"] == name]
            slower = [f"{row['batch_size']}" for row in here if _is_slower(row, rows)]
            sentence = (
                f"N_gen {length}, {name}: "
                + ", ".join(f"{row['speed_up']:.2f}x at batch {row['batch_size']}" for row in here)
                + f" of the tokens per second without locks (1 / r-bar is "
                f"{wording.span([row['possible'] for row in here], 2)})."
            )
            if slower:
                sentence += f" Locking is slower at batch {wording.listed(slower)}."
            if printed := [row for row in here if row["published_speed_up"] is not None]:
                sentence += (
                    " The paper printed "
                    + wording.listed(
                        [f"{row['published_speed_up']:.2f} at batch {row['batch_size']}" for row in printed]
                    )
                    + "."
                )
            found.append(sentence)
            batch = max(row["batch_size"] for row in here)
            curve = [
                row["ratio"]
                for row in steps
                if (row["num_generated"], row["batch_size"], row["rule"]) == (length, batch, name)
            ]
            found.append(
                f"N_gen {length}, {name}, batch {batch}: step-TPS goes from {curve[0]:.2f}x in the first part of the "
                f"run to {curve[-1]:.2f}x in the last."
            )
    drifts = [row["drift"] for row in rows if row["drift"] is not None]
    if any(not 0.8 <= drift <= 1.25 for drift in drifts):
        found.append(
            f"Runs without locks differ by a factor of {wording.span(drifts, 2)}: the machine was busy, measure again."
        )
    elif drifts:
        found.append(
            f"Runs without locks before and after differ by a factor of {wording.span(drifts, 2)}: ratios nearer to 1 "
            "than that say nothing."
        )
    return found


def _is_slower(row: Row, rows: list[Row]) -> bool:
    """Whether a rule took longer than no lock, by more than two runs of no lock differ."""
    drifts = [
        other["drift"]
        for other in rows
        if (other["num_generated"], other["batch_size"]) == (row["num_generated"], row["batch_size"])
        and other["drift"] is not None
    ]
    least = min([1.0, *drifts, *(1 / drift for drift in drifts)])
    return float(wording.number(row["speed_up"], 2)) < 1 and bool(row["speed_up"] < least)


def _draw_runs(rows: list[Row]) -> Figure:
    from surelock.experiments import style

    lengths = sorted({row["num_generated"] for row in rows})
    num_columns = min(3, len(lengths))
    num_rows = -(-len(lengths) // num_columns)
    figure, grid = style.axes_grid(num_rows, num_columns, height=0.9 + 2.7 * num_rows, share_y=True)
    panels = [axes for row in grid for axes in row]
    for axes in panels[len(lengths) :]:
        axes.set_visible(False)
    for axes, length in zip(panels, lengths, strict=False):
        for name, colour, marker in ((DEFAULT, style.BLUE, "o"), (PAPER, style.RED, "s")):
            here = [row for row in rows if row["num_generated"] == length and row["rule"] == name]
            batches = [row["batch_size"] for row in here]
            axes.plot(batches, [row["speed_up"] for row in here], color=colour, marker=marker, label=name)
            axes.plot(
                batches, [row["possible"] for row in here], color=colour, linestyle=style.DOTTED,
                label=f"1 / r-bar, {name}",
            )  # fmt: skip
            printed = [(row["batch_size"], row["published_speed_up"]) for row in here if row["published_speed_up"]]
            if printed:
                axes.plot(
                    *zip(*printed, strict=True), color=style.INK, marker="D", markerfacecolor="none", linestyle="none",
                    label="published, LLaDA-8B",
                )  # fmt: skip
        axes.axhline(1, color=style.INK, linewidth=0.9)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({row["batch_size"] for row in rows}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0)
        axes.set_title(f"N_gen = {length}")
        axes.set_xlabel("requests decoded together")
    for row in grid:
        row[0].set_ylabel("tokens per second,\nlocked / unlocked")
    style.legend_below(figure, panels[: len(lengths)], columns=3)
    return figure


def _draw_steps(steps: list[Row]) -> Figure:
    from surelock.experiments import style

    lengths = sorted({row["num_generated"] for row in steps})
    figure, (panels,) = style.axes_grid(1, 2, height=3.7, share_y=True)
    for axes, name in zip(panels, (DEFAULT, PAPER), strict=True):
        for length, colour in zip(lengths, style.SERIES * 4, strict=False):
            batch = max(row["batch_size"] for row in steps if row["num_generated"] == length)
            here = [
                row for row in steps if (row["num_generated"], row["batch_size"], row["rule"]) == (length, batch, name)
            ]
            axes.plot(
                [row["share"] for row in here], [row["ratio"] for row in here], color=colour, linewidth=1.8,
                label=f"N_gen {length}, batch {batch}",
            )  # fmt: skip
        axes.axhline(1, color=style.INK, linewidth=0.9)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_title(name)
        axes.set_xlabel("step / number of steps")
    panels[0].set_ylabel("step-TPS, locked / unlocked")
    style.legend_below(figure, panels, columns=3)
    return figure


EXPERIMENT: Final = Experiment("4", "throughput", "Tokens per second", run, run_shape)
