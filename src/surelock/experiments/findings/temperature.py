"""Temperature and random unmasking: does locking still pay where the sampler is noisy?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from surelock.experiments import wording
from surelock.experiments.fitted_tasks import RIGHT_COLUMNS, RIGHT_NOTE, TRAINED, compared, fitted_problems
from surelock.experiments.lengths import Length, of
from surelock.experiments.mixture import Run, active_ratio, decode_together
from surelock.experiments.quality import QUALITY_COLUMNS, QUALITY_NOTE, TextJudge, load_judge
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.rules import DEFAULT, NO_LOCK, NONE, PAPER, Rule, default_rule, paper_rule
from surelock.params import LockParams, SamplingParams, Unmasking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Canvas, Workbench

OTHER_SEED: Final = "no lock, other seed"
# Seeds of the two runs of a prompt are so far apart.
SEED_DISTANCE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is combined.

    Attributes:
        threshold: epsilon of both rules.
        tasks, num_problems: kinds of problem, and how many of each.
    """

    temperatures: tuple[float, ...] = (0, 0.3, 0.7, 1.0)
    unmasking: tuple[Unmasking, ...] = ("low_confidence", "random")
    lengths: tuple[Length, ...] = of(64)
    num_prompts: int = 96
    threshold: float = LockParams().kl_threshold
    tasks: tuple[str, ...] = TRAINED
    num_problems: int = 20


_QUICK: Final = Settings(temperatures=(0, 0.7), lengths=of(16), num_prompts=2, tasks=("count", "unit"), num_problems=1)

PLACE_COLUMNS: Final = (
    Column("unmasking", "unmasking"),
    Column("temperature", "temperature", "{:g}"),
    Column("rule", "rule"),
)
TEXT_COLUMNS: Final = (
    Column("length", "N_gen/steps"),
    *PLACE_COLUMNS,
    *QUALITY_COLUMNS,
    Column("active_ratio", "active rows", "{:.3f}"),
)
TASK_COLUMNS: Final = (*PLACE_COLUMNS, *RIGHT_COLUMNS, Column("active_ratio", "active rows", "{:.3f}"))

# How tokens are chosen, and in which order positions get one.
Place = tuple[Unmasking, float]


def run(bench: Workbench) -> Result:
    """Decode texts and problems at every temperature and in both orders."""
    settings = bench.settings(Settings(), _QUICK)
    texts = bench.prompts.texts(settings.num_prompts)
    prompts = [text.canvas for text in texts]
    lengths, left_out = bench.fitting(settings.lengths, prompts)
    places = list(product(settings.unmasking, settings.temperatures))
    rules = (NO_LOCK, default_rule(settings.threshold), paper_rule(settings.threshold))
    judge = load_judge(bench)
    scored = TextJudge(judge, texts, seed=bench.options.seed)
    text_rows = _text_rows(bench, prompts, lengths, places, rules, scored)
    task_rows, lines = _task_rows(bench, settings, places, rules)
    return Result(
        number=FINDING.number,
        name=FINDING.name,
        title=FINDING.title,
        method=(
            "Held-out texts are continued after their first 64 tokens, one token a step, end ids kept; problems are "
            "asked with N_gen fitted to the right answer. Without locks, under the default rule and under the paper's. "
            "Noise is a function of seed, step and position, and all runs of a prompt have one seed: a position that "
            "is unmasked in the same step meets the same noise with and without locks, but not if the order changed, "
            "so agreement falls with temperature for that reason too. What another seed does to the run without locks "
            "stands beside it; where agreement is no higher than that, it says nothing about locks."
        ),
        facts=bench.facts(settings, prompts=bench.prompts.text_source, judge=judge.name),
        tables=[
            Table("temperature", QUALITY_NOTE, TEXT_COLUMNS, text_rows),
            Table("temperature_tasks", RIGHT_NOTE, TASK_COLUMNS, task_rows),
        ],
        pictures=[Picture("temperature", _CAPTION, lambda: _draw(text_rows, task_rows))] if text_rows else [],
        findings=[*_text_findings(text_rows), *_task_findings(task_rows)],
        left_out=[*left_out, *lines],
    )


def is_random(place: Place) -> bool:
    """Whether anything depends on the seed."""
    unmasking, temperature = place
    return unmasking == "random" or temperature > 0


def _text_rows(
    bench: Workbench,
    prompts: Sequence[Canvas],
    lengths: Sequence[Length],
    places: Sequence[Place],
    rules: Sequence[Rule],
    scored: TextJudge,
) -> list[Row]:
    def own_run(length: Length, place: Place, rule: Rule, first_seed: int) -> Run:
        unmasking, temperature = place
        return Run(
            prompts,
            [
                SamplingParams(
                    max_tokens=length.num_generated,
                    steps=length.steps,
                    temperature=temperature,
                    unmasking=unmasking,
                    seed=first_seed + index,
                    ignore_eos=True,
                    lock=rule.lock,
                )
                for index in range(len(prompts))
            ],
        )

    seed = bench.options.seed
    runs = {
        (length, place, rule.name): own_run(length, place, rule, seed)
        for length, place, rule in product(lengths, places, rules)
    }
    runs |= {
        (length, place, OTHER_SEED): own_run(length, place, NO_LOCK, seed + SEED_DISTANCE)
        for length, place in product(lengths, places)
        if is_random(place)
    }
    outputs = decode_together(bench, runs)
    bench.progress("scoring texts")
    scored.score_all(list(outputs.values()))
    rows = []
    for length, place in product(lengths, places):
        free = outputs[length, place, NONE]
        for name in [*(rule.name for rule in rules), OTHER_SEED]:
            if (own := outputs.get((length, place, name))) is not None:
                rows.append(
                    {"length": str(length), "unmasking": place[0], "temperature": place[1], "rule": name}
                    | scored.row(own, free)
                    | {"active_ratio": active_ratio(own)}
                )
    return rows


def _task_rows(
    bench: Workbench, settings: Settings, places: Sequence[Place], rules: Sequence[Rule]
) -> tuple[list[Row], list[str]]:
    problems, lines = fitted_problems(bench, settings.tasks, num_per_task=settings.num_problems)
    if not problems:
        return [], lines
    runs = {
        (place, rule.name): Run(
            [each.prompt for each in problems],
            [
                SamplingParams(
                    max_tokens=each.max_tokens,
                    temperature=place[1],
                    unmasking=place[0],
                    seed=bench.options.seed + index,
                    lock=rule.lock,
                )
                for index, each in enumerate(problems)
            ],
        )
        for place in places
        for rule in rules
    }
    outputs = decode_together(bench, runs)
    right = {
        key: [each.is_right(output.text) for each, output in zip(problems, own, strict=True)]
        for key, own in outputs.items()
    }
    rows = [
        {"unmasking": place[0], "temperature": place[1], "rule": name}
        | compared(right[place, name], None if name == NONE else right[place, NONE], seed=bench.options.seed)
        | {"active_ratio": active_ratio(own)}
        for (place, name), own in outputs.items()
    ]
    return rows, lines


def _text_findings(rows: Sequence[Row]) -> list[str]:
    found = []
    for length in dict.fromkeys(row["length"] for row in rows):
        for unmasking in dict.fromkeys(row["unmasking"] for row in rows):
            here = [row for row in rows if (row["length"], row["unmasking"]) == (length, unmasking)]
            for name in (DEFAULT, PAPER):
                own = [row for row in here if row["rule"] == name]
                above = [_temperature(row) for row in own if row["ppl_ratio_low"] > 1]
                below = [_temperature(row) for row in own if row["ppl_ratio_high"] < 1]
                found.append(
                    f"Text, N_gen/steps {length}, {_order(unmasking)}, {name}: Gen-PPL against no lock is "
                    f"{_series(own, 'ppl_ratio')} ({wording.exclusions(above, below)}), at "
                    f"{_active(own)} of the rows."
                )
            found += _agreement(length, unmasking, here)
    return found


def _agreement(length: str, unmasking: str, rows: Sequence[Row]) -> list[str]:
    other = {row["temperature"]: row["agreement"] for row in rows if row["rule"] == OTHER_SEED}
    own = [row for row in rows if row["rule"] == DEFAULT and row["temperature"] in other]
    if not own:
        return []
    parts = [
        f"{wording.number(row['agreement'], 2)} at {row['temperature']:g} (two seeds: "
        f"{wording.number(other[row['temperature']], 2)})"
        for row in own
    ]
    return [
        f"Text, N_gen/steps {length}, {_order(unmasking)}: agreement of the default rule with no lock under the same "
        f"noise is {wording.listed(parts)}."
    ]


def _task_findings(rows: Sequence[Row]) -> list[str]:
    found = []
    for unmasking in dict.fromkeys(row["unmasking"] for row in rows):
        for name in (NONE, DEFAULT, PAPER):
            own = [row for row in rows if (row["unmasking"], row["rule"]) == (unmasking, name)]
            sentence = f"Problems, {_order(unmasking)}, {name}: " + wording.listed(
                [f"{row['accuracy']:.1%} right {_at(row)}" for row in own]
            )
            if name != NONE:
                sentence += f"; {_worst(own)}, at {_active(own)} of the rows"
            found.append(f"{sentence}.")
    return found


def _worst(rows: Sequence[Row]) -> str:
    worst = min(rows, key=lambda row: float(row["difference"]))
    told = wording.change(worst["difference"], worst["difference_low"], worst["difference_high"])
    if float(wording.points(worst["difference"])) < 0:
        return f"the largest loss against no lock is {told} {_at(worst)}"
    return f"no temperature loses right answers against no lock, the smallest change is {told} {_at(worst)}"


def _series(rows: Sequence[Row], name: str) -> str:
    return wording.listed([f"{wording.number(row[name])} {_at(row)}" for row in rows])


def _active(rows: Sequence[Row]) -> str:
    return wording.span([row["active_ratio"] for row in rows])


def _at(row: Row) -> str:
    return f"at {_temperature(row)}"


def _temperature(row: Row) -> str:
    return f"T = {row['temperature']:g}"


def _order(unmasking: str) -> str:
    return f"{unmasking.replace('_', '-')} unmasking"


def _draw(texts: Sequence[Row], tasks: Sequence[Row]) -> Figure:
    from surelock.experiments import style

    length = texts[0]["length"]
    texts = [row for row in texts if row["length"] == length]
    orders = list(dict.fromkeys(row["unmasking"] for row in texts))
    figure, panels = style.axes_grid(3 + bool(tasks), len(orders), height=2.4 * (3 + bool(tasks)) + 0.8)
    for column, unmasking in enumerate(orders):
        own = [row for row in texts if row["unmasking"] == unmasking]
        quality, cost, same = (panels[index][column] for index in range(3))
        quality.axhline(1, color=style.INK, linewidth=0.9)
        _lines(quality, own, "ppl_ratio", (DEFAULT, PAPER), ends=("ppl_ratio_low", "ppl_ratio_high"))
        style.ratio_axis(quality, "y")
        _lines(cost, own, "active_ratio", (DEFAULT, PAPER))
        _lines(same, own, "agreement", (DEFAULT, PAPER, OTHER_SEED))
        quality.set_title(f"{_order(unmasking)}, text {length}")
        drawn = [(quality, "Gen-PPL ratio"), (cost, "rows computed / all"), (same, "agreement")]
        if tasks:
            answers = panels[3][column]
            of_order = [row for row in tasks if row["unmasking"] == unmasking]
            _lines(answers, of_order, "accuracy", (NONE, DEFAULT, PAPER))
            drawn.append((answers, "right answers"))
        for axes, name in drawn:
            if column == 0:
                axes.set_ylabel(name)
            if name != "Gen-PPL ratio":
                axes.set_ylim(0, 1.02)
            axes.set_xticks([row["temperature"] for row in own if row["rule"] == NONE])
        drawn[-1][0].set_xlabel("temperature")
    style.legend_below(figure, [axes for row in panels for axes in row], columns=4)
    return figure


def _lines(
    axes: Axes, rows: Sequence[Row], key: str, names: Sequence[str], *, ends: tuple[str, str] | None = None
) -> None:
    from surelock.experiments import style

    looks = {
        NONE: (style.INK, "^", style.DASHED),
        OTHER_SEED: (style.QUIET, "^", style.DOTTED),
        DEFAULT: (style.BLUE, "o", "-"),
        PAPER: (style.RED, "s", "-"),
    }
    for name in names:
        own = [row for row in rows if row["rule"] == name]
        if not own:
            continue
        colour, marker, line = looks[name]
        x = [row["temperature"] for row in own]
        hollow: dict[str, Any] = {"markersize": 10, "markerfacecolor": "none"} if name == NONE else {}
        axes.plot(x, [row[key] for row in own], color=colour, marker=marker, linestyle=line, label=name, **hollow)
        if ends is not None:
            low, high = ([row[end] for row in own] for end in ends)
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)


_CAPTION: Final = (
    "Gen-PPL with locks / without (band: 95 % interval over prompts), share of rows computed, agreement with no lock "
    "under the same noise (dotted: no lock with another seed) and right answers, against temperature."
)
FINDING: Final = Experiment("finding", "temperature", "Does locking survive temperature and random unmasking?", run)
