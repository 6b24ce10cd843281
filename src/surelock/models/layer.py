"""One transformer layer over R rows. It knows rows, slots and positions; it has no branch on any decoding method."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surelock.models.config import ModelConfig
from surelock.models.rope import Rotation
from surelock.models.row_batch import LayerKV, RowBatch
from surelock.ops.row_attention import row_attention
from surelock.ops.store_kv import store_kv


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32; the result is cast back before the weight is applied, as LLaDA does."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [R, size] -> [R, size]."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


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

    def forward(self, x: Tensor, batch: RowBatch, rotation: Rotation, kv: LayerKV) -> Tensor:
        """x [R, hidden_size] -> [R, hidden_size]; overwrites the rows' keys and values in their slots."""
        q, k, v = self.project(x, rotation)
        store_kv(kv.keys, batch.slots, batch.positions, k)
        store_kv(kv.values, batch.slots, batch.positions, v)
        attended = row_attention(q, kv.keys, kv.values, batch.spans)
        return self.finish(x, attended)

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """x [R, hidden_size] -> rotated q [R, num_heads, head_dim], rotated k and v [R, num_kv_heads, head_dim]."""
        config = self.config
        sizes = (config.query_size, config.kv_size, config.kv_size)
        q, k, v = self.qkv(self.attn_norm(x)).split(sizes, dim=-1)
        q = self.q_norm(q).unflatten(-1, (config.num_heads, config.head_dim))
        k = self.k_norm(k).unflatten(-1, (config.num_kv_heads, config.head_dim))
        v = v.unflatten(-1, (config.num_kv_heads, config.head_dim))
        return rotation.apply(q), rotation.apply(k), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Output projection and feed-forward: x [R, hidden_size], attended [R, num_heads, head_dim]."""
        x = x + self.attn_out(attended.flatten(1))
        gate, up = self.gate_up(self.ff_norm(x)).chunk(2, dim=-1)
        fed: Tensor = self.down(F.silu(gate) * up)
        return x + fed
