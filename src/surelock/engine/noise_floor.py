"""How much a posterior seems to move when nothing moved: rounding that depends on the shape of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from surelock.models.row_batch import LayerKV, RowBatch
from surelock.models.transformer import Transformer
from surelock.ops.row_attention import RowSpan, Spans
from surelock.ops.step_kl import StepKL, step_kl


@torch.inference_mode()
def noise_floor(model: Transformer, canvases: Sequence[Sequence[int]]) -> dict[str, float]:
    """KL in nats between each canvas computed alone and the same canvas computed three in a batch.

    Both are the same mathematics; matrix products of other shapes round differently. {"median", "p99", "max"} over
    all positions of all canvases.
    """
    kl = torch.cat([null_pair(model, ids).kl for ids in canvases])
    ordered = kl.double().sort().values
    return {
        "median": float(ordered.quantile(0.5)),
        "p99": float(ordered.quantile(0.99)),
        "max": float(ordered[-1]),
    }


@torch.inference_mode()
def null_pair(model: Transformer, token_ids: Sequence[int], num_copies: int = 3) -> StepKL:
    """KL in nats and uncertainty [N] of a canvas computed alone, against num_copies of it computed together."""
    alone, together = (_hidden(model, token_ids, num, _empty(model, num * len(token_ids))) for num in (1, num_copies))
    return step_kl(alone, together, model.lm_head)


@torch.inference_mode()
def null_part(
    model: Transformer, token_ids: Sequence[int], positions: Sequence[int], others: Sequence[int] | None = None
) -> StepKL:
    """KL in nats and uncertainty of the rows at positions, computed by themselves against computed with other rows.

    Both read the keys and values of the whole canvas, as active rows read those of locked ones.

    others: positions of these rows. None: all the canvas has.
    """
    num, device = len(token_ids), model.device
    kv = [_empty(model, num) for _ in range(model.config.num_layers)]
    whole = _hidden(model, token_ids, 1, *kv)
    ids = torch.tensor(token_ids, device=device)

    def rows(chosen: Sequence[int]) -> torch.Tensor:
        places = torch.tensor(chosen, device=device)
        spans = Spans.of([RowSpan(0, len(chosen), num)], device)
        copies = [LayerKV(each.keys.clone(), each.values.clone()) for each in kv]
        return model.hidden(RowBatch(ids[places], places, places, spans), copies)

    together = whole[list(positions)] if others is None else rows([*positions, *others])[: len(positions)]
    return step_kl(rows(positions), together, model.lm_head)


def _hidden(model: Transformer, token_ids: Sequence[int], num_copies: int, *kv: LayerKV) -> torch.Tensor:
    """Hidden rows [N, d] of the first of num_copies copies of a canvas computed together.

    kv: of each layer, or one for all layers where they are not read later.
    """
    num = len(token_ids)
    batch = RowBatch(
        torch.tensor(list(token_ids) * num_copies, device=model.device),
        torch.arange(num, device=model.device).repeat(num_copies),
        torch.arange(num_copies * num, device=model.device),
        Spans.of([RowSpan(copy * num, num, num) for copy in range(num_copies)], model.device),
    )
    return model.hidden(batch, kv if len(kv) > 1 else kv * model.config.num_layers)[:num]


def _empty(model: Transformer, num_places: int) -> LayerKV:
    shape = (num_places, model.config.num_kv_heads, model.config.head_dim)
    return LayerKV(*(torch.empty(shape, dtype=model.dtype, device=model.device) for _ in range(2)))
