"""Keys and values of every request, in place, in one pool of places per layer."""

from __future__ import annotations

import torch

from surelock.models.config import ModelConfig
from surelock.models.row_batch import LayerKV


class KVPool:
    """num_places of every layer, [num_places, num_kv_heads, head_dim] for keys and values.

    A stream of a request has a range of them, one place for each position. A locked position's keys and values stay
    because nothing writes there; the next request of a range overwrites all of it in its first forward, so ranges are
    never cleared. `poison` fills memory that must not be read with NaN.
    """

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, poison: bool = False) -> None:
        self._config = config
        self._dtype = dtype
        self._device = device
        self._poison = poison
        self.layers: list[LayerKV] = []

    @property
    def num_places(self) -> int:
        """Places of each layer, the reserved ones included."""
        return self.layers[0].keys.shape[0] if self.layers else 0

    def grow(self, num_places: int) -> bool:
        """Make room for at least num_places, keeping what is there; whether anything had to move."""
        old = self.num_places
        if num_places <= old:
            return False
        # Layer by layer, so that only one layer is ever held twice.
        for layer in range(self._config.num_layers):
            new = LayerKV(self._empty(num_places), self._empty(num_places))
            if old == 0:
                self.layers.append(new)
                continue
            new.keys[:old] = self.layers[layer].keys
            new.values[:old] = self.layers[layer].values
            self.layers[layer] = new
        return True

    def give_up(self, start: int, num: int) -> None:
        """These places are not read any more."""
        if self._poison:
            for layer in self.layers:
                layer.keys[start : start + num] = torch.nan
                layer.values[start : start + num] = torch.nan

    def _empty(self, num_places: int) -> torch.Tensor:
        shape = (num_places, self._config.num_kv_heads, self._config.head_dim)
        empty = torch.empty(shape, dtype=self._dtype, device=self._device)
        return empty.fill_(torch.nan) if self._poison else empty
