"""What long canvases cost: FLOPs of the shape of LLaDA-8B, counted step by step along scripted locks, nothing run."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Final

import numpy as np
import torch

from studies.bench import Bench, Length, lengths
from studies.decoders import PAPER, PERMANENT
from studies.measures import COST_NOTE
from studies.plots import Panel, Plot
from studies.study import Cell, Row, Rows, Settings, Study, Table
from surelock.bench.schedules import make_schedule, script
from surelock.bench.shapes import SHAPES
from surelock.flops import RowCost, request_flops

# Scripts of `surelock.bench.schedules` by the rule each follows.
SCRIPTS: Final = {PERMANENT: "default", PAPER: "paper"}
PARTS: Final = ("linear", "attention", "head")
# Steps of a curve that are written; totals are of all.
NUM_POINTS: Final = 128


def grid(bench: Bench, settings: Settings) -> list[Cell]:
    """A cell for each length."""
    cells, limit = [], SHAPES[settings.shape].max_sequence_length
    for length in settings.lengths:
        num = settings.num_prompt + length.num_generated
        if length.steps != length.num_generated:
            bench.leave_out(f"N_gen/steps {length}: scripts assume one token a step")
        elif num > limit:
            bench.leave_out(f"N_gen/steps {length}: {num} positions; the model's limit is {limit}")
        else:
            cells.append(Cell(f"N_gen {length.num_generated}", partial(count, settings, length)))
    return cells


def count(settings: Settings, length: Length) -> Rows:
    """Both scripts at one length."""
    found: Rows = {"long_canvases": [], "long_canvases_by_step": []}
    config, num, cpu = SHAPES[settings.shape], length.num_generated, torch.device("cpu")
    cost, num_positions = RowCost.from_config(config), settings.num_prompt + num
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
        # FLOPs of every step: projections and feed-forwards, attention, LM head; without locks all rows are computed.
        everything, attention = np.full_like(active, num_positions), cost.attention_per_key * num_positions
        parts = {
            "linear": active * cost.linear, "attention": active * attention, "head": (masked + 2 * tested) * cost.head,
            "unlocked_linear": everything * cost.linear, "unlocked_attention": everything * attention,
            "unlocked_head": masked * cost.head,
        }  # fmt: skip
        locked, unlocked = (sum(parts[f"{side}{part}"] for part in PARTS) for side in ("", "unlocked_"))
        assert int((parts["linear"] + parts["attention"]).sum()) == flops["exact"]["locked"]
        base, total = flops["full"]["base"], flops["full"]["locked"]
        head: Row = {"num_generated": num, "num_positions": num_positions, "rule": rule}
        sides = product(("exact", "full"), ("base", "locked", "ratio"))
        found["long_canvases"].append(head | {f"{mode}_{side}": flops[mode][side] for mode, side in sides} | {
            "masked_floor": length.masked_floor(settings.num_prompt), "possible": 1 / flops["full"]["ratio"],
            "attention_unlocked": int(parts["unlocked_attention"].sum()) / base,
            "attention_locked": int(parts["attention"].sum()) / total,
            "attention_last": int(parts["attention"][-1]) / int(locked[-1]),
            "head_unlocked": int(parts["unlocked_head"].sum()) / base, "head_locked": int(parts["head"].sum()) / total,
        })  # fmt: skip
        even = np.linspace(0, num - 1, NUM_POINTS).round().astype(int)
        for step in np.union1d(even, np.arange(min(3, num))).tolist():
            row: Row = {"num_generated": num, "rule": rule, "step": step + 1, "share": (step + 1) / num}
            row |= {"rows": int(active[step])} | {part: int(values[step]) for part, values in parts.items()}
            ratios = {"exact_ratio": row["rows"] / num_positions, "full_ratio": int(locked[step]) / int(unlocked[step])}
            found["long_canvases_by_step"].append(row | ratios)
    return found


STUDY = Study(
    name="long_canvases", title="What do long canvases cost?",
    method="FLOPs of the shape {shape}, counted by surelock.flops from the rows of each step; nothing is run and "
    "nothing is timed. Prompts of {num_prompt} tokens, one token a step, locks that follow the scripts of surelock "
    "bench: the permanent rule's (the masks, and eight tokens that just settled) or the active rows of the paper's "
    "Figure 2 (m = 20, epsilon = 5e-3; between its three lengths by their logarithm, beyond 1,024 tokens the curve of "
    "1,024 by the share of the run). A computed row attends to all positions. The KL test measures every row that is "
    "computed with a token, in all steps but the first and the last.",
    settings={"shape": "llada-8b", "lengths": lengths(64, 256, 1024, 1984, 4032), "num_prompt": 64},
    quick={"lengths": lengths(64, 256)},
    grid=grid,
    tables=(
        Table("long_canvases", f"{COST_NOTE} "
              "Possible: how many times as fast a run would be if time went with FLOPs. Attention: scores and "
              "weighted values as a share of full FLOPs, of whole runs and of the last step with locks; head: the LM "
              "head's share."),
        Table("long_canvases_by_step", columns=None),
    ),
    plots=(
        Plot("long_canvases", "Full FLOPs with locks over those without: of each step, and of whole runs.",
            Panel("long_canvases_by_step", "share", "full_ratio", "num_generated", "rule"),
            Panel("long_canvases", "num_generated", "full_ratio masked_floor", "rule", log="2"),
        ),
    ),
    needs_model=False,
)  # fmt: skip
