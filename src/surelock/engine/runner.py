"""From the rows of a canvas to the model's hidden rows: packing, guidance, keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from surelock.decoding.canvas import Canvas, Mask
from surelock.engine.kv_slots import KVSlots
from surelock.engine.request import Request
from surelock.models.row_batch import RowBatch
from surelock.models.transformer import Transformer
from surelock.ops.row_attention import Segment


class Runner:
    """`decoding.step.Forward` over a real model.

    Slot s of the canvas has its keys and values in slot s of KVSlots; under guidance the unconditional stream, whose
    prompt is MASK, has its own in slot max_batch_size + s.
    """

    def __init__(self, model: Transformer, max_batch_size: int, *, poison: bool = False) -> None:
        self._model = model
        self._kv = KVSlots(model.config, dtype=model.dtype, device=model.device, poison=poison)
        self._second = max_batch_size
        # Per slot: valid keys, which is the canvas length, and guidance scale (0: unguided).
        self._num_keys = [0] * max_batch_size
        self._cfg_scale = [0.0] * max_batch_size

    def start(self, requests: Sequence[Request], num_slots: int, length: int) -> None:
        """Make room for num_slots canvases of up to `length` positions and note what the new requests' slots hold."""
        for request in requests:
            assert request.slot is not None
            self._num_keys[request.slot] = request.num_positions
            self._cfg_scale[request.slot] = request.params.cfg_scale
        guided = any(request.is_guided for request in requests)
        self._kv.grow(self._second + num_slots if guided else num_slots, length)

    def __call__(self, canvas: Canvas, rows: Mask) -> Tensor:
        """See `decoding.step.Forward`."""
        slots, positions = rows.nonzero(as_tuple=True)
        tokens = canvas.tokens[slots, positions]
        num_rows: list[int] = rows.sum(1).tolist()
        segments = [Segment(slot, num, self._num_keys[slot]) for slot, num in enumerate(num_rows) if num]
        scale = torch.tensor(self._cfg_scale, dtype=torch.float32, device=rows.device)[slots]
        guided = scale > 0
        if not guided.any():
            return self._model.hidden(RowBatch(tokens, positions, slots, tuple(segments)), self._kv.layers)

        given = canvas.given[slots, positions]
        unconditional = torch.where(given, self._model.config.mask_token_id, tokens)
        second = [Segment(self._second + slot, num, keys) for slot, num, keys in segments if self._cfg_scale[slot] > 0]
        batch = RowBatch(
            torch.cat((tokens, unconditional[guided])),
            torch.cat((positions, positions[guided])),
            torch.cat((slots, slots[guided] + self._second)),
            (*segments, *second),
        )
        hidden = self._model.hidden(batch, self._kv.layers)
        # The head is affine and the two weights add up to 1, so guided hidden rows have the guided logits.
        combined = hidden[: len(slots)].float()
        difference = combined[guided] - hidden[len(slots) :].float()
        combined[guided] += scale[guided].unsqueeze(1) * difference
        return combined.to(hidden.dtype)
