"""From cells of the canvases to the model's hidden rows: packing, guidance, places of keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from surelock.decoding.canvases import Canvases
from surelock.decoding.packing import cells_of
from surelock.engine.kv_pool import KVPool
from surelock.engine.slot_table import Column, SlotTable
from surelock.models.row_batch import RowBatch
from surelock.models.transformer import Transformer
from surelock.ops.row_attention import Spans


class Runner:
    """`decoding.step.Forward` over a real model.

    Each stream of a request has its range of places for keys and values: one, and under guidance a second one,
    unconditional, whose prompt is MASK.

    Args:
        num_guided: rows of unconditional streams there is room for; None: as many as there are, which waits for the
            device to count them. They follow all other rows.
    """

    def __init__(self, model: Transformer, kv: KVPool, table: SlotTable, num_guided: int | None = None) -> None:
        self._model = model
        self._kv = kv
        self._table = table
        self._num_guided = num_guided

    def __call__(self, canvas: Canvases, cells: Tensor) -> Tensor:
        """See `decoding.step.Forward`."""
        slots, positions = cells // canvas.length, cells % canvas.length
        tokens = canvas.flat_tokens[cells]
        places = self._table.integers(Column.KV_START)[slots] + positions
        if self._num_guided == 0:
            spans = self._spans(canvas, _starts(slots, canvas), (Column.KV_START,), len(cells))
            return self._model.hidden(RowBatch(tokens, positions, places, spans), self._kv.layers)

        # The rows of guided requests once more, their prompt masked; [n], padded with the number of rows.
        scale = self._table.reals(Column.CFG_SCALE)[slots]
        again = cells_of(scale > 0, self._num_guided)
        row, is_pad = again.clamp_max(len(cells) - 1), again == len(cells)
        slots_again = torch.where(is_pad, canvas.num_slots, slots[row])
        positions_again = torch.where(is_pad, 0, positions[row])
        places_again = self._table.integers(Column.KV_START_UNCONDITIONAL)[slots_again] + positions_again
        blind = torch.where(canvas.flat_given[cells[row]], self._model.config.mask_token_id, tokens[row])
        starts = torch.cat((_starts(slots, canvas), _starts(slots_again, canvas) + len(cells)))
        columns = (Column.KV_START, Column.KV_START_UNCONDITIONAL)
        batch = RowBatch(
            torch.cat((tokens, blind)),
            torch.cat((positions, positions_again)),
            torch.cat((places, places_again)),
            self._spans(canvas, starts, columns, len(cells) + len(again)),
        )
        hidden = self._model.hidden(batch, self._kv.layers)
        # The head is affine and the two weights add up to 1, so guided hidden rows have the guided logits. One row more
        # takes what pads.
        guided = hidden[: len(cells) + 1].float()
        difference = guided[row] - hidden[len(cells) :].float()
        guided[again] += scale[row].float().unsqueeze(1) * difference
        return guided[: len(cells)].to(hidden.dtype)

    def _spans(self, canvas: Canvases, starts: Tensor, columns: tuple[Column, ...], num_rows: int) -> Spans:
        """A span for each slot, and one for rows that pad, of each stream; the streams one after another."""
        end = torch.full((1,), num_rows, dtype=torch.int32, device=starts.device)
        keys = [self._table.integers(column).int() for column in columns]
        return Spans(
            row_starts=torch.cat((starts, end)),
            # The last entry is not read.
            key_starts=torch.cat((*keys, end)),
            num_keys=self._table.integers(Column.NUM_KEYS).int().repeat(len(columns)),
            max_rows=min(num_rows, canvas.length),
            max_keys=canvas.length,
        )


def _starts(slots: Tensor, canvas: Canvases) -> Tensor:
    """int32 [S + 1]: first of the rows, whose slots [R] rise, that is of each slot; the last are the rows that pad."""
    return torch.searchsorted(slots, torch.arange(canvas.num_slots + 1, device=slots.device), out_int32=True)
