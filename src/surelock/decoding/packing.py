"""From a mask over the canvases to the cells that are set, with or without asking the device how many there are."""

from __future__ import annotations

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask


def cells_of(mask: Mask, size: int | None) -> Tensor:
    """Cells (see `Canvas`) where mask [S, L] is set, int64 [size] in rising order, padded at the end with cell S L.

    With size=None exactly those, which waits for the device. Otherwise nothing waits, and no more than `size` may be
    set.
    """
    flat = mask.flatten()
    if size is None:
        return flat.nonzero().squeeze(1)
    return torch.nonzero_static(flat, size=size, fill_value=len(flat)).squeeze(1)
