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
    return step_kl(_hidden(model, token_ids, 1), _hidden(model, token_ids, num_copies), model.lm_head)


def _hidden(model: Transformer, token_ids: Sequence[int], num_copies: int) -> torch.Tensor:
    """Hidden rows [N, d] of the first of num_copies copies of a canvas computed together."""
    num, config = len(token_ids), model.config
    batch = RowBatch(
        torch.tensor(list(token_ids) * num_copies, device=model.device),
        torch.arange(num, device=model.device).repeat(num_copies),
        torch.arange(num_copies * num, device=model.device),
        Spans.of([RowSpan(copy * num, num, num) for copy in range(num_copies)], model.device),
    )
    shape = (num_copies * num, config.num_kv_heads, config.head_dim)
    kv = LayerKV(*(torch.empty(shape, dtype=model.dtype, device=model.device) for _ in range(2)))
    return model.hidden(batch, [kv] * config.num_layers)[:num]
