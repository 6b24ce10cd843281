"""Draw the losses of a leg.

python -m training.plot --log DIR/log.jsonl --out FILE.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; a second round of them is dashed.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def draw(lines: list[dict[str, Any]]) -> Figure:
    """Loss by kind of row; below, the rate of learning and, of a leg that decodes, how varied its own text is."""
    millions = [line["step"] * line.get("batch_tokens", 1) / 1e6 for line in lines]
    unit = "tokens (millions)" if "batch_tokens" in lines[0] else "step (millions)"
    decodes = "distinct_3" in lines[0]
    figure = Figure(figsize=(9, 7 if decodes else 6), layout="constrained")
    losses, *below = figure.subplots(
        3 if decodes else 2, 1, sharex=True, height_ratios=[4, 1, 1] if decodes else [4, 1]
    )
    rates = below[-1]
    kinds = sorted(lines[-1]["loss"], key=lambda kind: -lines[-1]["loss"][kind])
    for index, kind in enumerate(kinds):
        style = "-" if index < len(COLOURS) else "--"
        values = [max(line["loss"].get(kind, float("nan")), 1e-4) for line in lines]
        losses.plot(millions, values, style, color=COLOURS[index % len(COLOURS)], label=kind, linewidth=1.3)
    losses.set_yscale("log")
    losses.set_ylabel("cross entropy of masked tokens (nats)")
    losses.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    if decodes:
        below[0].plot(millions, [line["distinct_3"] for line in lines], color="black", linewidth=1.3)
        below[0].set_ylabel("distinct-3 of\nits own text")
    rates.plot(millions, [line["rate"] for line in lines], color="black", linewidth=1.3)
    rates.set_ylabel("share of\ntop rate")
    rates.set_xlabel(unit)
    for axes in (losses, *below):
        axes.grid(alpha=0.25)
    return figure


def main() -> None:
    """Draw one log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    mpl.use("agg")
    lines = [json.loads(line) for line in arguments.log.read_text().splitlines()]
    draw(lines).savefig(arguments.out, dpi=130)


if __name__ == "__main__":
    main()
