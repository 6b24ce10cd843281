"""What long canvases cost: FLOPs of the shape of LLaDA-8B, counted step by step along scripted locks, nothing run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from studies.bench import Bench, Length, lengths
from studies.decoders import PAPER, PERMANENT
from studies.plots import Panel, picture
from studies.study import Cell, Plot, Row, Rows, Study, Table
from surelock.bench.schedules import make_schedule, script
from surelock.bench.shapes import SHAPES
from surelock.flops import RowCost, request_flops

# Scripts of `surelock.bench.schedules` by the rule each follows.
SCRIPTS: Final = {PERMANENT: "default", PAPER: "paper"}
# Steps of a curve that are written; totals are of all.
NUM_POINTS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is counted: N_gen at one token a step, and tokens of the prompt."""

    shape: str = "llada-8b"
    lengths: tuple[Length, ...] = lengths(64, 256, 1024, 1984, 4032)
    num_prompt: int = 64


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length."""
    cells = []
    for length in settings.lengths:
        reason = length.unscripted(settings.num_prompt, SHAPES[settings.shape].max_sequence_length)
        if reason is not None:
            bench.leave_out(f"N_gen/steps {length}: {reason}")
            continue
        cells.append(Cell(name=f"N_gen {length.num_generated}", measure=lambda length=length: count(settings, length)))  # type: ignore[misc]
    return cells


def count(settings: Settings, length: Length) -> Rows:
    """Both scripts at one length."""
    found: Rows = {"long_canvases": [], "long_canvases_by_step": []}
    config, num, cpu = SHAPES[settings.shape], length.num_generated, torch.device("cpu")
    cost, num_positions = RowCost.from_config(config), settings.num_prompt + length.num_generated
    for rule, name in SCRIPTS.items():
        active = np.array(script(make_schedule(name, cpu), settings.num_prompt, num, cpu), dtype=np.int64)
        masked = np.arange(num, 0, -1, dtype=np.int64)
        # The first step has no posterior before it, and after the last nothing is left to lock.
        tested = active - masked
        tested[[0, -1]] = 0
        flops = request_flops(
            config, active_rows=active.tolist(), num_positions=num_positions, masked_rows=masked.tolist(),
            candidate_rows=tested.tolist(),
        )  # fmt: skip
        exact, full = flops["exact"], flops["full"]
        # FLOPs of every step: projections and feed-forwards, attention, LM head.
        attention = cost.attention_per_key * num_positions
        parts = {
            "linear": active * cost.linear, "attention": active * attention, "head": (masked + 2 * tested) * cost.head,
            "unlocked_linear": np.full_like(active, num_positions * cost.linear),
            "unlocked_attention": np.full_like(active, num_positions * attention), "unlocked_head": masked * cost.head,
        }  # fmt: skip
        total = {name: int(values.sum()) for name, values in parts.items()}
        last = sum(int(parts[name][-1]) for name in ("linear", "attention", "head"))
        head: Row = {"num_generated": num, "num_positions": num_positions, "rule": rule}
        found["long_canvases"].append(
            head
            | {
                f"{mode}_{side}": flops[mode][side]
                for mode in ("exact", "full")
                for side in ("base", "locked", "ratio")
            }
            | {
                "masked_floor": length.masked_floor(settings.num_prompt),
                "possible": 1 / full["ratio"],
                "attention_unlocked": total["unlocked_attention"] / full["base"],
                "attention_locked": total["attention"] / full["locked"],
                "attention_last": int(parts["attention"][-1]) / last,
                "head_unlocked": total["unlocked_head"] / full["base"],
                "head_locked": total["head"] / full["locked"],
            }
        )
        assert total["linear"] + total["attention"] == exact["locked"]
        even = np.linspace(0, num - 1, NUM_POINTS).round().astype(int)
        for step in np.union1d(even, np.arange(min(3, num))).tolist():
            here = {name: int(values[step]) for name, values in parts.items()}
            locked, unlocked = (
                sum(here[f"{side}{name}"] for name in ("linear", "attention", "head")) for side in ("", "unlocked_")
            )
            found["long_canvases_by_step"].append(
                {
                    "num_generated": num,
                    "rule": rule,
                    "step": step + 1,
                    "share": (step + 1) / num,
                    "rows": int(active[step]),
                }
                | here
                | {"exact_ratio": int(active[step]) / num_positions, "full_ratio": locked / unlocked}
            )
    return found


STUDY: Final = Study(
    number="open",
    name="long_canvases",
    title="What do long canvases cost?",
    method="FLOPs of the shape {shape}, counted by surelock.flops from the rows of each step; nothing is run and "
    "nothing is timed. Prompts of {num_prompt} tokens, one token a step, locks that follow the scripts of surelock "
    "bench: the permanent rule's (the masks, and eight tokens that have just settled) or the active rows of the "
    "paper's Figure 2 (m = 20, epsilon = 5e-3; between its three lengths by their logarithm, beyond 1,024 tokens "
    "the curve of 1,024 by the share of the run). A computed row attends to all positions, whether they are locked "
    "or not. The LM head is on the masked rows, and with locks twice on every row that the KL test measures: those "
    "computed with a token, in all steps but the first and the last.",
    settings=Settings(),
    quick=Settings(lengths=lengths(64, 256)),
    grid=grid,
    tables=(
        Table("long_canvases", "FLOPs ratios, with locks / without: exact counts what is computed, full adds the LM "
              "head and both head rows of each KL test. Masked floor: the least exact ratio any locking can reach. "
              "Possible: how many times as fast a run would be if time went with FLOPs. Attention: scores and "
              "weighted values as a share of full FLOPs, of whole runs and of the last step with locks; head: the LM "
              "head's share."),
        Table("long_canvases_by_step", columns=None),
    ),
    plots=(
        Plot("long_canvases", "Full FLOPs with locks over those without: of each step, and of whole runs.", picture(
            Panel("long_canvases_by_step", "share", "full_ratio", "num_generated", "rule"),
            Panel("long_canvases", "num_generated", "full_ratio masked_floor", "rule", log="2"),
        )),
    ),
    needs_model=False,
)  # fmt: skip
