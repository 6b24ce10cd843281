"""What long canvases cost: FLOPs of the shape of LLaDA-8B, counted step by step along scripted locks, nothing run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from surelock.experiments import wording
from surelock.experiments.lengths import Length, of
from surelock.experiments.registry import Experiment
from surelock.experiments.result import Column, Picture, Result, Row, Table
from surelock.experiments.rules import DEFAULT, PAPER
from surelock.flops import RowCost, request_flops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surelock.experiments.workbench import Options, Workbench
    from surelock.models.config import ModelConfig

Counts = npt.NDArray[np.int64]
SHAPE: Final = "llada-8b"
# Scripts of `surelock.bench.schedules` by the rule each follows.
SCRIPTS: Final = {DEFAULT: "default", PAPER: "paper"}
# Steps of a curve that are written; totals are of all.
NUM_POINTS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is counted.

    Attributes:
        lengths: N_gen, one token a step.
        num_prompt: tokens of the prompt.
    """

    lengths: tuple[Length, ...] = of(64, 256, 1024, 1984, 4032)
    num_prompt: int = 64


QUICK: Final = Settings(lengths=of(64, 256))

COLUMNS: Final = (
    Column("num_generated", "N_gen"),
    Column("num_positions", "positions"),
    Column("rule", "script"),
    Column("exact_base"),
    Column("exact_locked"),
    Column("full_base", "FLOPs without locks", "{:.3e}"),
    Column("full_locked"),
    Column("exact_ratio", "exact", "{:.3f}"),
    Column("full_ratio", "full", "{:.3f}"),
    Column("masked_floor", "masked floor", "{:.3f}"),
    Column("possible", "1 / full", "{:.2f}"),
    Column("attention_unlocked", "attention, no locks", "{:.1%}"),
    Column("attention_locked", "attention, locks", "{:.1%}"),
    Column("attention_last", "attention, last step", "{:.1%}"),
    Column("head_unlocked", "head, no locks", "{:.1%}"),
    Column("head_locked", "head, locks", "{:.1%}"),
)
STEP_COLUMNS: Final = tuple(
    Column(name)
    for name in (
        "num_generated", "rule", "step", "share", "rows", "linear", "attention", "head", "unlocked_linear",
        "unlocked_attention", "unlocked_head", "exact_ratio", "full_ratio",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one scripted run, step by step: [S] each.

    Attributes:
        num_positions: N of its canvas.
        active: computed. `masked`: of these without a token. `tested`: of these measured by the KL test.
    """

    num_positions: int
    active: Counts
    masked: Counts
    tested: Counts

    @classmethod
    def scripted(cls, schedule: str, num_prompt: int, num_generated: int) -> Run:
        """As the engine runs a script of `surelock.bench.schedules`, one token a step."""
        import torch

        from surelock.bench.schedules import make_schedule, script

        cpu = torch.device("cpu")
        active = np.array(script(make_schedule(schedule, cpu), num_prompt, num_generated, cpu), dtype=np.int64)
        masked = np.arange(num_generated, 0, -1, dtype=np.int64)
        # The first step has no posterior before it, and after the last nothing is left to lock.
        tested = active - masked
        tested[[0, -1]] = 0
        return cls(num_prompt + num_generated, active, masked, tested)

    def parts(self, config: ModelConfig) -> dict[str, Counts]:
        """FLOPs of every step, with locks and without: projections and feed-forwards, attention, LM head."""
        cost = RowCost.from_config(config)
        every = np.full_like(self.active, self.num_positions)
        attention = cost.attention_per_key * self.num_positions
        return {
            "linear": self.active * cost.linear,
            "attention": self.active * attention,
            "head": (self.masked + 2 * self.tested) * cost.head,
            "unlocked_linear": every * cost.linear,
            "unlocked_attention": every * attention,
            "unlocked_head": self.masked * cost.head,
        }


def run(bench: Workbench) -> Result:
    """Among experiments that need the model; it is not looked at."""
    return count(bench.options)


def count(options: Options) -> Result:
    """Count every length along both scripts."""
    from surelock.bench.shapes import SHAPES

    settings = options.settings(Settings(), QUICK)
    config = SHAPES[SHAPE]
    reasons = {each: each.unscripted(settings.num_prompt, config.max_sequence_length) for each in settings.lengths}
    rows: list[Row] = []
    steps: list[Row] = []
    for length in [each for each, reason in reasons.items() if reason is None]:
        for rule, schedule in SCRIPTS.items():
            own = Run.scripted(schedule, settings.num_prompt, length.num_generated)
            head = {"num_generated": length.num_generated, "rule": rule}
            parts = own.parts(config)
            rows.append(_total_row(config, own, parts, length, settings.num_prompt, rule))
            steps += [head | row for row in _step_rows(own, parts)]
    return Result(
        number=FINDING.number,
        name=FINDING.name,
        title=FINDING.title,
        method=(
            "FLOPs of the shape of LLaDA-8B, counted by surelock.flops from the rows of each step; nothing is run and "
            f"nothing is timed. Prompts of {settings.num_prompt} tokens, one token a step, locks that follow the "
            "scripts of surelock bench: the default rule's (the masks, and eight tokens that have just settled) or the "
            "active rows of the paper's Figure 2 (m = 20, epsilon = 5e-3; between its three lengths by their "
            "logarithm, beyond 1,024 tokens the curve of 1,024 by the share of the run). A computed row attends to all "
            "positions, whether they are locked or not. The LM head is on the masked rows, and with locks twice on "
            "every row that the KL test measures: those computed with a token, in all steps but the first and the last."
        ),
        facts={
            "model": "shape of LLaDA-8B, no weights",
            "shape": SHAPE,
            "lock": "scripted",
            "schedule": "default and paper",
            "quick": options.quick,
            "lengths": [str(length) for length in settings.lengths],
            "num_prompt": settings.num_prompt,
        },
        tables=[
            Table("long_canvases", _NOTE, COLUMNS, rows),
            Table("long_canvases_by_step", "Steps spread over each run.", STEP_COLUMNS, steps, on_page=False),
        ],
        pictures=[Picture("long_canvases", _CAPTION, lambda: _draw(rows, steps))] if rows else [],
        findings=findings(rows, settings.num_prompt),
        left_out=[f"N_gen/steps {each}: {reason}" for each, reason in reasons.items() if reason is not None],
    )


def _total_row(
    config: ModelConfig, own: Run, parts: dict[str, Counts], length: Length, num_prompt: int, rule: str
) -> Row:
    flops = request_flops(
        config,
        active_rows=own.active.tolist(),
        num_positions=own.num_positions,
        masked_rows=own.masked.tolist(),
        candidate_rows=own.tested.tolist(),
    )
    total = {name: int(values.sum()) for name, values in parts.items()}
    last = sum(int(parts[name][-1]) for name in ("linear", "attention", "head"))
    exact, full = flops["exact"], flops["full"]
    return {
        "num_generated": length.num_generated,
        "num_positions": own.num_positions,
        "rule": rule,
        "exact_base": exact["base"],
        "exact_locked": exact["locked"],
        "full_base": full["base"],
        "full_locked": full["locked"],
        "exact_ratio": exact["ratio"],
        "full_ratio": full["ratio"],
        "masked_floor": length.masked_floor(num_prompt),
        "possible": 1 / full["ratio"],
        "attention_unlocked": total["unlocked_attention"] / full["base"],
        "attention_locked": total["attention"] / full["locked"],
        "attention_last": int(parts["attention"][-1]) / last,
        "head_unlocked": total["unlocked_head"] / full["base"],
        "head_locked": total["head"] / full["locked"],
    }


def _step_rows(own: Run, parts: dict[str, Counts]) -> list[Row]:
    """Of steps spread evenly over the run, the first three, in which the prompt locks, and the last among them."""
    num_steps = len(own.active)
    rows: list[Row] = []
    even = np.linspace(0, num_steps - 1, NUM_POINTS).round().astype(int)
    for index in np.union1d(even, np.arange(min(3, num_steps))).tolist():
        here = {name: int(values[index]) for name, values in parts.items()}
        locked = here["linear"] + here["attention"] + here["head"]
        unlocked = here["unlocked_linear"] + here["unlocked_attention"] + here["unlocked_head"]
        rows.append(
            {
                "step": index + 1,
                "share": (index + 1) / num_steps,
                "rows": int(own.active[index]),
                **here,
                "exact_ratio": int(own.active[index]) / own.num_positions,
                "full_ratio": locked / unlocked,
            }
        )
    return rows


def findings(rows: Sequence[Row], num_prompt: int) -> list[str]:
    """Sentences about the totals at the shortest and the longest length."""
    found = []
    for rule in SCRIPTS:
        every = sorted((row for row in rows if row["rule"] == rule), key=lambda row: int(row["num_generated"]))
        if not every:
            continue
        ends = _Ends(every)
        found.append(
            f"{rule}, {ends.name}: full FLOPs with locks are {ends.each('full_ratio')} of those without, so a run "
            f"could be {ends.each('possible', '{:.2f}')} times as fast if time went with FLOPs.{_trend(every)}"
        )
        above = wording.listed([wording.number(row["exact_ratio"] - row["masked_floor"]) for row in ends.rows])
        head = wording.listed([wording.signed(row["full_ratio"] - row["exact_ratio"]) for row in ends.rows])
        found.append(
            f"{rule}, {ends.name}: of the rows {ends.each('exact_ratio')} are computed, {above} above the masked "
            f"floor; the LM head changes the ratio by {head}."
        )
        found.append(
            f"{rule}, {ends.name}: attention scores are {ends.each('attention_unlocked', '{:.1%}')} of the FLOPs "
            f"without locks, {ends.each('attention_locked', '{:.1%}')} with them and "
            f"{ends.each('attention_last', '{:.1%}')} in the last step. A computed row attends to every position, so "
            "a lock saves attention and projections alike."
        )
    if rows:
        ends = _Ends(sorted(rows, key=lambda row: int(row["num_generated"])))
        most = wording.listed([wording.number(1 / row["masked_floor"], 2) for row in ends.rows])
        found.append(
            f"{ends.name}: with prompts of {num_prompt} tokens and one token a step masks alone are "
            f"{ends.each('masked_floor')} of all rows. No locking computes fewer, so none is more than {most} times as "
            "fast as no lock if time goes with rows."
        )
    found.append("Counted, not timed; and scripted locks say nothing of quality: on real text fewer or more rows lock.")
    return found


class _Ends:
    """The first and the last of some rows, or the one there is."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [rows[0]] if rows[0]["num_generated"] == rows[-1]["num_generated"] else [rows[0], rows[-1]]

    @property
    def name(self) -> str:
        return f"N_gen {wording.listed([str(row['num_generated']) for row in self.rows])}"

    def each(self, name: str, form: str = "{:.3f}") -> str:
        return wording.listed([form.format(row[name]) for row in self.rows])


def _trend(rows: Sequence[Row]) -> str:
    """Which way the full ratio goes between the ends."""
    ratios = [float(wording.number(row["full_ratio"])) for row in rows]
    if len(ratios) == 1:
        return ""
    if len(set(ratios)) == 1:
        return " The ratio is the same at every length."
    if ratios == sorted(ratios):
        return " The ratio never falls as the length grows."
    if ratios == sorted(ratios, reverse=True):
        return " The ratio never rises as the length grows."
    low, high = (rows[ratios.index(extreme(ratios))]["num_generated"] for extreme in (min, max))
    return f" The ratio is lowest at N_gen {low} and highest at N_gen {high}."


def _draw(rows: Sequence[Row], steps: Sequence[Row]) -> Figure:
    from surelock.experiments import style

    lengths = sorted({row["num_generated"] for row in rows})
    figure, ((left, middle, right),) = style.axes_grid(1, 3, height=4.2, width=10.6, share_y=True)
    for axes, rule in ((left, DEFAULT), (middle, PAPER)):
        # Long curves lie on each other: the thinner lies above.
        widths = np.linspace(3.4, 1.2, len(lengths)).tolist()
        for length, colour, width in zip(lengths, style.SERIES * len(lengths), widths, strict=False):
            own = [row for row in steps if (row["num_generated"], row["rule"]) == (length, rule)]
            axes.plot(
                [row["share"] for row in own], [row["full_ratio"] for row in own], color=colour, linewidth=width,
                label=f"N_gen {length}",
            )  # fmt: skip
        axes.set_title(f"each step, {rule}'s script")
        axes.set_xlabel("step / number of steps")
        axes.set_xlim(0, 1)
    looks: dict[str, dict[str, Any]] = {
        DEFAULT: {"color": style.INK, "marker": "o", "linestyle": "-"},
        PAPER: {"color": style.QUIET, "marker": "s", "markerfacecolor": "none", "linestyle": style.DASHED},
    }
    for rule, look in looks.items():
        own = [row for row in rows if row["rule"] == rule]
        right.plot(
            [row["num_generated"] for row in own], [row["full_ratio"] for row in own], label=f"run, {rule}", **look
        )
    floor = [row for row in rows if row["rule"] == DEFAULT]
    right.plot(
        [row["num_generated"] for row in floor], [row["masked_floor"] for row in floor], color=style.INK,
        linestyle=style.DOTTED, label="masked floor (rows)",
    )  # fmt: skip
    right.set_xscale("log", base=2)
    right.set_xticks(lengths, [str(length) for length in lengths])
    right.minorticks_off()
    right.set_title("whole runs")
    right.set_xlabel("N_gen")
    left.set_ylabel("full FLOPs, with locks / without")
    left.set_ylim(bottom=0)
    style.legend_below(figure, [left, middle, right], columns=4)
    return figure


_NOTE: Final = (
    "FLOPs ratios, with locks / without: exact counts what is computed, full adds the LM head and both head rows of "
    "each KL test. Masked floor: the least exact ratio any locking can reach, since masked rows must be computed. "
    "1 / full: how many times as fast a run would be if time went with FLOPs. Attention: scores and weighted values as "
    "a share of full FLOPs, of whole runs and, last step, of the last step with locks; head: the LM head's share."
)
_CAPTION: Final = (
    "Full FLOPs with locks over those without, counted on the shape of LLaDA-8B with 64-token prompts: of each step "
    "(left, middle) and of whole runs (right), where the dotted line is the share of rows that are masks."
)
FINDING: Final = Experiment("finding", "long_canvases", "What do long canvases cost?", run, count=count)
