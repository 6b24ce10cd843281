"""Plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [R, heads, D] rotated by halves with its rows' cos, sin [R, D / 2], in their type; returned in x's."""
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    # Written in place: joining two fresh halves takes more than twice as long on a CPU.
    rotated = torch.empty(x.shape, dtype=cos.dtype, device=x.device)
    out_first, out_second = rotated.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).sub_(second * sin)
    torch.mul(second, cos, out=out_second).add_(first * sin)
    return rotated.to(x.dtype)


def rope_store(qkv: Tensor, cos: Tensor, sin: Tensor, places: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Rotated queries; shapes in the package's docstring."""
    num_kv_heads, head_dim = keys.shape[1:]
    heads = qkv.reshape(len(qkv), qkv.shape[1] // head_dim, head_dim)
    # Queries and keys lie side by side: rotated together they take half the launches.
    rotated = rotate(heads[:, :-num_kv_heads], cos, sin)
    keys.index_put_((places,), rotated[:, -num_kv_heads:])
    values.index_put_((places,), heads[:, -num_kv_heads:])
    return rotated[:, :-num_kv_heads]
