"""From the rows of a canvas to the model's hidden rows: packing, guidance, keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import torch
from torch import Tensor

from surelock.config import EngineConfig
from surelock.decoding.canvas import Canvas
from surelock.engine.graphs import SCRATCH_SLOT, GraphedForward
from surelock.engine.kv_slots import KVSlots
from surelock.engine.request import Request
from surelock.models.row_batch import RowBatch
from surelock.models.transformer import Transformer
from surelock.ops.dispatch import is_fast
from surelock.ops.row_attention import RowSpan, Spans


@dataclass(frozen=True, slots=True)
class _Tenant:
    """A request as the model sees it: its KV slots, one for each stream, its length and guidance scale."""

    kv_slots: tuple[int, ...]
    num_keys: int
    cfg_scale: float


class Runner:
    """`decoding.step.Forward` over a real model.

    Each canvas slot in use has one slot of keys and values, and under guidance a second one for the unconditional
    stream, whose prompt is MASK.
    """

    def __init__(self, model: Transformer, config: EngineConfig) -> None:
        self._model = model
        self._kv = KVSlots(model.config, dtype=model.dtype, device=model.device, poison=config.poison)
        self._uses_graphs = config.cuda_graphs and model.dtype != torch.float32 and is_fast(model.device)
        self._max_spans = 2 * config.max_batch_size
        self._graphs: GraphedForward | None = None
        self._free: list[int] = []
        # Slot 0 is the scratch slot of padding rows, which only graphs have.
        self._num_slots = SCRATCH_SLOT + 1 if self._uses_graphs else 0
        self._tenants: dict[int, _Tenant] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no request holds a slot."""
        return not self._tenants

    def start(self, requests: Sequence[Request], length: int) -> None:
        """Give new requests, each of which has its canvas slot, their slots of at least `length` positions."""
        for request in requests:
            assert request.slot is not None
            slots = tuple(self._take() for _ in range(2 if request.is_guided else 1))
            self._tenants[request.slot] = _Tenant(slots, request.num_positions, request.params.cfg_scale)
        if self._kv.grow(self._num_slots, length):
            self._graphs = None

    def finish(self, slot: int) -> None:
        """Take back what the request in this canvas slot held."""
        for kv_slot in self._tenants.pop(slot).kv_slots:
            heappush(self._free, kv_slot)

    def __call__(self, canvas: Canvas, rows: Tensor) -> Tensor:
        """See `decoding.step.Forward`."""
        slots, positions = rows // canvas.length, rows % canvas.length
        tokens = canvas.tokens.flatten()[rows]
        counts: list[int] = torch.bincount(slots, minlength=canvas.num_slots).tolist()
        running = [(slot, num, self._tenants[slot]) for slot, num in enumerate(counts) if num]
        guided = [(slot, num, tenant) for slot, num, tenant in running if len(tenant.kv_slots) > 1]
        first = [RowSpan(tenant.kv_slots[0], num, tenant.num_keys) for _, num, tenant in running]
        if not guided:
            return self._forward(_batch(tokens, positions, first))

        # The rows of guided requests once more, their prompt masked.
        scale = torch.zeros(canvas.num_slots, device=rows.device)
        for slot, _, tenant in guided:
            scale[slot] = tenant.cfg_scale
        again = (scale > 0)[slots]
        blind = torch.where(canvas.given.flatten()[rows], self._model.config.mask_token_id, tokens)[again]
        second = [RowSpan(tenant.kv_slots[1], num, tenant.num_keys) for _, num, tenant in guided]
        batch = _batch(torch.cat((tokens, blind)), torch.cat((positions, positions[again])), first + second)
        hidden = self._forward(batch)
        # The head is affine and the two weights add up to 1, so guided hidden rows have the guided logits.
        combined = hidden[: len(slots)].float()
        difference = combined[again] - hidden[len(slots) :].float()
        combined[again] += scale[slots][again].unsqueeze(1) * difference
        return combined.to(hidden.dtype)

    def warm_up(self, max_rows: int) -> None:
        """Capture the graphs of steps of up to max_rows rows, once requests have started."""
        if self._uses_graphs:
            self._graphed().warm_up(max_rows)

    def _graphed(self) -> GraphedForward:
        if self._graphs is None:
            self._graphs = GraphedForward(self._model, self._kv.layers, self._max_spans)
        return self._graphs

    def _forward(self, batch: RowBatch) -> Tensor:
        if not self._uses_graphs or batch.token_ids.shape[0] == 0:
            return self._model.hidden(batch, self._kv.layers)
        return self._graphed()(batch)

    def _take(self) -> int:
        if self._free:
            return heappop(self._free)
        self._num_slots += 1
        return self._num_slots - 1


def _batch(tokens: Tensor, positions: Tensor, spans: Sequence[RowSpan]) -> RowBatch:
    table = torch.tensor([(span.slot, span.num_rows) for span in spans], dtype=torch.int64, device=tokens.device)
    slots, num_rows = table.reshape(-1, 2).unbind(1)
    return RowBatch(tokens, positions, slots.repeat_interleave(num_rows), Spans.of(spans, tokens.device))
