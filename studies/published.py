"""What the paper printed (arXiv 2602.06412, LLaDA-8B), to stand beside what is measured here: published.json.

The tables and figures are dictionaries from a setting to what was printed for it; the file says what both hold.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_CONTENT: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


# What the values of Table 1, of Tables 2 and 5 (against no lock) and of Table 4 (against no method at all) are.
FLOPS: Final = ("active_ratio", "locked", "ratio")
RATIOS: Final = ("ppl_ratio", "flops_ratio")
COMBINATION: Final = ("flops_ratio", "speed_up")


def _rows(name: str, num_keys: int) -> dict[Any, tuple[Any, ...]]:
    """By the first so many columns of a row."""
    rows = (tuple(row) for row in _CONTENT[name]["rows"])
    return {row[:num_keys] if num_keys > 1 else row[0]: row[num_keys:] for row in rows}


TABLE_1: Final = _rows("table_1", 2)
TABLE_2: Final = _rows("table_2", 3)
TABLE_2_BASE: Final = {length: flops for length, (flops,) in _rows("table_2_base", 2).items()}
TABLE_4: Final = _rows("table_4", 1)
TABLE_5: Final = _rows("table_5", 1)
FIGURE_3A: Final = {place: ratio for place, (ratio,) in _rows("figure_3a", 2).items()}


def active_ratio(percentile: float, num_generated: int, threshold: float) -> list[float] | None:
    """A curve of Figure 2 at even shares of the run, from the first step to the last; None where the paper has none."""
    curves: dict[str, list[float]] = _CONTENT["figure_2"].get(f"{percentile:g}", {}).get(str(num_generated), {})
    return next((curve for name, curve in curves.items() if float(name) == threshold), None)


def columns(names: Sequence[str], printed: tuple[Any, ...] | None) -> dict[str, Any]:
    """Columns published_NAME of what was printed; None where nothing was."""
    return {f"published_{name}": printed and printed[place] for place, name in enumerate(names)}
