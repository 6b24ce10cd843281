"""Order statistics inside each slot of a dense [S, L] tensor, over a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask


def percentile(values: Tensor, where: Mask, percent: Tensor) -> Tensor:
    """Percentile [S] of values over `where` in each slot, interpolated linearly as numpy does; NaN where none."""
    ordered = torch.where(where, values, torch.inf).double().sort(dim=1).values
    count = where.sum(1)
    index = (count - 1).clamp_min(0) * (percent / 100.0)
    low = index.floor().nan_to_num().long()
    high = torch.minimum(low + 1, (count - 1).clamp_min(0))
    a = ordered.gather(1, low.unsqueeze(1)).squeeze(1)
    b = ordered.gather(1, high.unsqueeze(1)).squeeze(1)
    fraction = index - low
    # numpy's form: from the nearer end, so that both ends are met exactly.
    value = torch.where(fraction < 0.5, a + (b - a) * fraction, b - (b - a) * (1.0 - fraction))
    return torch.where(count > 0, value, torch.nan)
