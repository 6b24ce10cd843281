"""What the paper printed (arXiv 2602.06412, LLaDA-8B), to stand beside what is measured here. Nothing else is in here.

FLOPs are the paper's: per row, padding included, no LM head, summed over steps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Flops:
    """A cell of Table 1: r-bar, FLOPs with locks, and their ratio to those without."""

    active_ratio: float
    locked: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Combination:
    """A row of Table 4: tokens a second and FLOPs against no method at all."""

    speed_up: float
    flops_ratio: float


# Table 1: LLaDA-8B-Instruct, 32 MT-Bench prompts in batches of 4, steps = N_gen, m = 20; (N_gen, epsilon).
TABLE_1: Final = {
    (64, 5e-4): Flops(0.548, 4.936e11, 0.547), (64, 5e-3): Flops(0.506, 4.565e11, 0.506),
    (64, 5e-2): Flops(0.482, 4.342e11, 0.482), (256, 5e-4): Flops(0.496, 1.801e12, 0.496),
    (256, 5e-3): Flops(0.482, 1.750e12, 0.482), (256, 5e-2): Flops(0.475, 1.725e12, 0.475),
    (1024, 5e-4): Flops(0.494, 7.366e12, 0.494), (1024, 5e-3): Flops(0.492, 7.333e12, 0.492),
    (1024, 5e-2): Flops(0.490, 7.315e12, 0.490),
}  # fmt: skip

# Table 2: LLaDA-8B-Base, 120 WikiText-103 prompts of 64 tokens, judge LLaMA-3-8B; (N_gen, steps, epsilon): ratios of
# Gen-PPL and of FLOPs.
TABLE_2: Final = {
    (64, 32, 5e-4): (1.06, 0.70), (64, 32, 5e-3): (1.08, 0.62), (64, 64, 5e-4): (1.31, 0.58),
    (64, 64, 5e-3): (1.37, 0.52), (128, 64, 5e-4): (1.21, 0.63), (128, 64, 5e-3): (1.18, 0.57),
    (128, 128, 5e-4): (1.12, 0.53), (128, 128, 5e-3): (1.19, 0.50), (256, 128, 5e-4): (1.11, 0.56),
    (256, 128, 5e-3): (1.14, 0.53), (256, 256, 5e-4): (1.02, 0.51), (256, 256, 5e-3): (1.10, 0.49),
    (512, 256, 5e-4): (1.05, 0.53), (512, 256, 5e-3): (1.08, 0.51), (512, 512, 5e-4): (1.04, 0.50),
    (512, 512, 5e-3): (1.05, 0.49),
}  # fmt: skip
# Its FLOPs without locks, which follow from the sizes of the model alone; (N_gen, steps), as printed.
TABLE_2_BASE: Final = {
    (64, 32): "4.488e11", (64, 64): "8.976e11", (128, 64): "8.997e11", (128, 128): "1.799e12", (256, 128): "1.808e12",
    (256, 256): "3.616e12", (512, 256): "3.650e12", (512, 512): "7.301e12",
}  # fmt: skip

# Table 4: N_gen = steps = 256. Its figures with selection do not follow from the paper's own way of counting.
TABLE_4: Final = {
    "locking": Combination(1.30, 0.54),
    "selection": Combination(1.18, 0.64),
    "both": Combination(1.73, 0.28),
}

# Table 5: LLaDA-8B-Base, N_gen = steps = 64; epsilon: (Gen-PPL ratio, FLOPs ratio).
TABLE_5: Final = {5e-8: (1.14, 0.66), 5e-7: (1.25, 0.60), 5e-4: (1.31, 0.58), 5e-3: (1.37, 0.52)}

# Figure 3a, read off: tokens a second with locks over those without, epsilon = 5e-3; (N_gen, batch). No value: the
# paper ran out of memory.
FIGURE_3A: Final[dict[tuple[int, int], float | None]] = {
    (64, 1): 0.73, (64, 2): 1.17, (64, 4): 1.22, (64, 8): 1.19, (256, 1): 1.23, (256, 2): 1.30, (256, 4): 1.35,
    (256, 8): 1.30, (1024, 1): 1.36, (1024, 2): 1.39, (1024, 4): 1.38, (1024, 8): None,
}  # fmt: skip


def active_ratio(percentile: float, num_generated: int, threshold: float) -> list[float] | None:
    """A curve of Figure 2 at even shares of the run, from the first step to the last; None where the paper has none."""
    curves: dict[str, dict[str, dict[str, list[float]]]] = _figure_2()
    of_length = curves.get(f"{percentile:g}", {}).get(str(num_generated), {})
    return next((curve for name, curve in of_length.items() if float(name) == threshold), None)


@cache
def _figure_2() -> dict[str, dict[str, dict[str, list[float]]]]:
    content = json.loads(Path(__file__).with_name("paper_curves.json").read_text())
    curves: dict[str, dict[str, dict[str, list[float]]]] = content["active_ratio"]
    return curves
