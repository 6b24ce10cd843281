"""The weights between two checkpoints of one ancestry: (1 - share) x first + share x second.

    python -m training.average --first DIR --second DIR --share 0.5 --out DIR

A leg that starts from another's weights stays in reach of them on a straight line, on which what the second learnt and
what the first knew can be weighed against each other after training (Wortsman et al., "Robust fine-tuning of zero-shot
models", 2022).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from training.checkpoint import load_weights, save_checkpoint, shape_of
from training.model import MaskedDiffusionModel


def average(first: Path, second: Path, share: float) -> MaskedDiffusionModel:
    """The model `share` of the way from the checkpoint `first` to `second`, in float32.

    Raises:
        ValueError: the share is not within 0 to 1, or the checkpoints differ in shape.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it must be between 0 (first) and 1 (second)")
    if shape_of(first) != shape_of(second):
        raise ValueError(f"{first} and {second} differ in shape: {shape_of(first)}, {shape_of(second)}")
    model, other = MaskedDiffusionModel(shape_of(first)), MaskedDiffusionModel(shape_of(second))
    load_weights(model, first)
    load_weights(other, second)
    with torch.no_grad():
        for mine, its in zip(model.parameters(), other.parameters(), strict=True):
            mine.lerp_(its, share)
    return model


def main() -> None:
    """Write the average, with the legs' `training.json` inside its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=Path, required=True)
    parser.add_argument("--second", type=Path, required=True)
    parser.add_argument("--share", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.out.resolve() in (arguments.first.resolve(), arguments.second.resolve()):
        parser.error(f"--out is {arguments.out}, one of the two that are read; give another folder")
    legs = [json.loads((folder / "training.json").read_text()) for folder in (arguments.first, arguments.second)]
    save_checkpoint(
        average(arguments.first, arguments.second, arguments.share),
        arguments.out,
        arguments.second,
        {"legs": legs, "share_of_second": arguments.share},
    )


if __name__ == "__main__":
    main()
