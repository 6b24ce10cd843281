"""The model to train: LLaDA's architecture over packed canvases, float32 weights, bfloat16 products on a GPU."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def half_precision(device: torch.device) -> torch.autocast:
    """Products in bfloat16, but for a CPU: one without units for it takes half a minute for a step."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu")


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model, by the names of its config.json."""

    d_model: int = 384
    n_layers: int = 8
    n_heads: int = 6
    mlp_hidden_size: int = 1024
    vocab_size: int = 4096
    max_sequence_length: int = 512
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5


class Layer(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, hidden = shape.d_model, shape.mlp_hidden_size
        self.n_heads = shape.n_heads
        self.attn_norm = nn.RMSNorm(d, shape.rms_norm_eps)
        self.ff_norm = nn.RMSNorm(d, shape.rms_norm_eps)
        self.q_proj, self.k_proj, self.v_proj, self.attn_out = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.ff_proj, self.up_proj = (nn.Linear(d, hidden, bias=False) for _ in range(2))
        self.ff_out = nn.Linear(hidden, d, bias=False)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, starts: Tensor, max_length: int) -> Tensor:
        """hidden [T, d]; cos, sin [T, 1, d_h]; starts [S + 1]."""
        normed = self.attn_norm(hidden)
        # [T, H, d_h]
        query, key, value = (
            project(normed).unflatten(-1, (self.n_heads, -1)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = _rotate(query, cos, sin).to(value.dtype), _rotate(key, cos, sin).to(value.dtype)
        hidden = hidden + self.attn_out(packed_attention(query, key, value, starts, max_length).flatten(-2))
        normed = self.ff_norm(hidden)
        update: Tensor = self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed))
        return hidden + update


class MaskedDiffusionModel(nn.Module):
    """Tensor names are those of a LLaDA checkpoint without `model.transformer.`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocab_size, shape.d_model)
        self.blocks = nn.ModuleList(Layer(shape) for _ in range(shape.n_layers))
        self.ln_f = nn.RMSNorm(shape.d_model, shape.rms_norm_eps)
        self.ff_out = nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        head_size = shape.d_model // shape.n_heads
        rates = shape.rope_theta ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
        angles = torch.arange(shape.max_sequence_length, dtype=torch.float32)[:, None] * rates
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 0.02); projections back into the residual stream smaller by sqrt(2 x layers)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.startswith("blocks") and name.rsplit(".", 2)[1] in ("attn_out", "ff_out")
                nn.init.normal_(parameter, std=0.02 / ((2 * self.shape.n_layers) ** 0.5 if into_residual else 1))

    def forward(self, inputs: Tensor, positions: Tensor, starts: Tensor) -> Tensor:
        """Logits [T, V] of packed canvases: inputs, positions [T]; starts [S + 1] int32."""
        hidden = self.wte(inputs)
        cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)  # type: ignore[index]
        for layer in self.blocks:
            hidden = layer(hidden, cos, sin, starts, self.shape.max_sequence_length)
        logits: Tensor = self.ff_out(self.ln_f(hidden))
        return logits


def packed_attention(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, max_length: int) -> Tensor:
    """Every canvas attends to itself, in both directions. query, key, value [T, H, d_h]; returns [T, H, d_h]."""
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        output = varlen_attn(query, key, value, starts, starts, max_length, max_length)
        assert isinstance(output, Tensor)
        return output
    # [H, T, d_h]
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    spans = [slice(begin, end) for begin, end in itertools.pairwise(starts.tolist()) if end > begin]
    pieces = [F.scaled_dot_product_attention(query[:, span], key[:, span], value[:, span]) for span in spans]
    return torch.cat(pieces, 1).transpose(0, 1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-rotation RoPE in float32."""
    x = x.float()
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def denoising_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of weight x cross entropy, cross entropy per token [T] without gradient)."""
    loss = F.cross_entropy(logits.float(), targets, reduction="none")
    return (loss * weights).sum(), loss.detach()
