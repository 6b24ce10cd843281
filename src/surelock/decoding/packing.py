"""From a mask over the canvases to the cells that are set, with or without asking the device how many there are."""

from __future__ import annotations

import torch
from torch import Tensor

from surelock.decoding.canvas import Mask


def cells_of(mask: Mask, size: int | None) -> Tensor:
    """Cells (see `Canvas`) where mask [S, L] is set, int64 [size] in rising order, padded at the end with cell S L.

    With size=None exactly those, which waits for the device. Otherwise nothing waits, and no more than `size` may be
    set.
    """
    flat = mask.flatten()
    if size is None:
        return flat.nonzero().squeeze(1)
    num = flat.shape[0]
    place = torch.where(flat, flat.cumsum(0) - 1, size)
    cells = torch.full((size + 1,), num, dtype=torch.int64, device=mask.device)
    return cells.scatter_(0, place, torch.arange(num, device=mask.device))[:size]
