"""The whole model: rows in, final hidden rows out, and the head that turns some of them into logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from surelock.models.config import ModelConfig
from surelock.models.layer import RMSNorm, TransformerLayer
from surelock.models.rope import RotaryEmbedding, Rotation
from surelock.models.row_batch import LayerKV, RowBatch
from surelock.ops.head_logits import Head, head_logits
from surelock.ops.row_attention import RowSpan, Spans


class Transformer(nn.Module):
    """A bidirectional transformer computed row by row.

    Parameters are named as `Family.parameter_sources` names them; `Transformer.from_weights` builds it from a mapping.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # Not filled: every user does it, and filling a "meta" tensor imports torch's compiler, a second of every start.
        unfilled = torch.empty(config.embedding_size, config.hidden_size)
        self.embedding: nn.Embedding = nn.Embedding.from_pretrained(unfilled, freeze=False)  # type: ignore[no-untyped-call]
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = None if config.tie_embeddings else _head_module(config)
        self._rotary: RotaryEmbedding | None = None

    @classmethod
    def from_weights(cls, config: ModelConfig, weights: Mapping[str, Tensor]) -> Transformer:
        """Take the tensors as they are, without a copy. Names and shapes are checked by the loader."""
        with torch.device("meta"):
            model = cls(config)
        model.load_state_dict(dict(weights), strict=True, assign=True)
        return model.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of the keys and values."""
        return self.embedding.weight.dtype

    def rotation(self, positions: Tensor) -> Rotation:
        """How rows at positions [R] are rotated, the same in every layer."""
        return self._rotary_embedding.at(positions, torch.float32 if self.config.rope_full_precision else self.dtype)

    @property
    def _rotary_embedding(self) -> RotaryEmbedding:
        """Built on first use, when the weights and with them the device are known."""
        if self._rotary is None:
            self._rotary = RotaryEmbedding(self.config.head_dim, self.config.rope_theta, self.device)
        return self._rotary

    @property
    def lm_head(self) -> Head:
        """Weight, bias and scale of the language-model head."""
        scale = 1.0 / math.sqrt(self.config.hidden_size) if self.config.scale_logits else 1.0
        if self.head is None:
            return Head(self.embedding.weight, None, scale)
        return Head(self.head.weight, self.head.bias, scale)

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids [R] -> [R, hidden_size]."""
        x: Tensor = self.embedding(token_ids)
        return x * math.sqrt(self.config.hidden_size) if self.config.scale_embeddings else x

    @torch.inference_mode()
    def hidden(self, batch: RowBatch, kv: Sequence[LayerKV]) -> Tensor:
        """Hidden rows after the final norm, [R, hidden_size]; every layer's keys and values are updated in place."""
        x = self.embed(batch.token_ids)
        rotation = self.rotation(batch.positions)
        delta: Tensor | None = None
        for layer, layer_kv in zip(self.layers, kv, strict=True):
            x, delta = layer(x, delta, batch, rotation, layer_kv)
        return self.norm.add(x, delta)[0]

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """float32 [N, embedding_size]: one plain forward of one canvas, nothing kept."""
        ids = torch.tensor(token_ids, dtype=torch.int64, device=self.device)
        num = len(token_ids)
        batch = RowBatch(
            ids,
            torch.arange(num, device=self.device),
            torch.arange(num, device=self.device),
            Spans.of([RowSpan(0, num, num)], self.device),
        )
        shape = (num, self.config.num_kv_heads, self.config.head_dim)
        empty = torch.empty(shape, dtype=self.dtype, device=self.device)
        return head_logits(self.hidden(batch, [LayerKV(empty, empty.clone())] * self.config.num_layers), self.lm_head)


def _head_module(config: ModelConfig) -> nn.Linear:
    return nn.Linear(config.hidden_size, config.embedding_size, bias=config.bias)
