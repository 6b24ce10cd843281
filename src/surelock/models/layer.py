"""One transformer layer over R rows. It knows rows and places; it has no branch on any decoding method."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surelock.models.config import ModelConfig
from surelock.models.rope import Rotation
from surelock.models.row_batch import LayerKV, RowBatch
from surelock.ops.add_norm import add_norm
from surelock.ops.rope_store import rope_store, rotate
from surelock.ops.row_attention import row_attention
from surelock.ops.swiglu import swiglu


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32; the result is cast back before the weight is applied, as LLaDA does."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [R, size] -> [R, size]."""
        return add_norm(x, None, self.weight, self.eps)[0]

    def add(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """Norm of x + delta [R, size], and x + delta itself."""
        return add_norm(x, delta, self.weight, self.eps)


class TransformerLayer(nn.Module):
    """Pre-norm attention and SwiGLU, with the query, key, value and the gate, up projections fused."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        qkv_size = config.query_size + 2 * config.kv_size
        self.attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.qkv = nn.Linear(config.hidden_size, qkv_size, bias=config.qkv_bias or config.bias)
        self.q_norm = RMSNorm(config.query_size, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.kv_size, config.norm_eps) if config.qk_norm else nn.Identity()
        self.attn_out = nn.Linear(config.query_size, config.hidden_size, bias=config.bias)
        self.ff_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.bias)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)

    def forward(
        self, x: Tensor, delta: Tensor | None, batch: RowBatch, rotation: Rotation, kv: LayerKV
    ) -> tuple[Tensor, Tensor]:
        """The residual stream x + delta [R, hidden_size] through this layer, given back as such a sum.

        The sum is left open so that adding and norming are one pass. The rows' keys and values in the pool are
        overwritten.
        """
        qkv, x = self._projected(x, delta)
        q = rope_store(qkv, *rotation, batch.places, kv.keys, kv.values)
        # What is not needed any more is let go before the feed-forward, where a layer takes the most memory.
        del qkv
        attended = row_attention(q, kv.keys, kv.values, batch.spans)
        normed, x = self.ff_norm.add(x, self.attn_out(attended.flatten(1)))
        return x, self._fed(normed)

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """x [R, hidden_size] -> rotated q [R, num_heads, head_dim], rotated k and v [R, num_kv_heads, head_dim]."""
        num_heads, num_kv_heads = self.config.num_heads, self.config.num_kv_heads
        qkv, _ = self._projected(x, None)
        heads = qkv.reshape(len(x), num_heads + 2 * num_kv_heads, self.config.head_dim)
        q, k, v = heads.tensor_split((num_heads, num_heads + num_kv_heads), dim=1)
        return rotate(q, *rotation), rotate(k, *rotation), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer after attention: x [R, hidden_size], attended [R, num_heads, head_dim]."""
        normed, x = self.ff_norm.add(x, self.attn_out(attended.flatten(1)))
        return x + self._fed(normed)

    def _projected(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries, keys and values side by side, [R, query_size + 2 kv_size], and x + delta."""
        normed, x = self.attn_norm.add(x, delta)
        qkv: Tensor = self.qkv(normed)
        if not self.config.qk_norm:
            return qkv, x
        query_size, kv_size = self.config.query_size, self.config.kv_size
        q, k, v = qkv.tensor_split((query_size, query_size + kv_size), dim=-1)
        return torch.cat((self.q_norm(q.contiguous()), self.k_norm(k.contiguous()), v), dim=-1), x

    def _fed(self, normed: Tensor) -> Tensor:
        fed: Tensor = self.down(swiglu(self.gate_up(normed)))
        return fed
