"""Keys and values of every request, in place, one slot each."""

from __future__ import annotations

import torch

from surelock.models.config import ModelConfig
from surelock.models.row_batch import LayerKV


class KVSlots:
    """num_slots x length positions of every layer, [num_slots, length, num_kv_heads, head_dim] for keys and values.

    A locked position's keys and values stay because nothing writes there; a slot's next request overwrites all of its
    own positions in its first forward, so slots are never cleared. `poison` fills fresh memory with NaN.
    """

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, poison: bool = False) -> None:
        self._config = config
        self._dtype = dtype
        self._device = device
        self._poison = poison
        self.layers: list[LayerKV] = []

    @property
    def shape(self) -> tuple[int, int]:
        """(num_slots, length)."""
        return (self.layers[0].keys.shape[0], self.layers[0].keys.shape[1]) if self.layers else (0, 0)

    def grow(self, num_slots: int, length: int) -> bool:
        """Make room for at least num_slots x length, keeping what is there; whether anything had to move."""
        old_slots, old_length = self.shape
        num_slots, length = max(num_slots, old_slots), max(length, old_length)
        if (num_slots, length) == (old_slots, old_length):
            return False
        # Layer by layer, so that only one layer is ever held twice.
        for layer in range(self._config.num_layers):
            new = LayerKV(self._empty(num_slots, length), self._empty(num_slots, length))
            if old_slots == 0:
                self.layers.append(new)
                continue
            new.keys[:old_slots, :old_length] = self.layers[layer].keys
            new.values[:old_slots, :old_length] = self.layers[layer].values
            self.layers[layer] = new
        return True

    def _empty(self, num_slots: int, length: int) -> torch.Tensor:
        shape = (num_slots, length, self._config.num_kv_heads, self._config.head_dim)
        empty = torch.empty(shape, dtype=self._dtype, device=self._device)
        return empty.fill_(torch.nan) if self._poison else empty
