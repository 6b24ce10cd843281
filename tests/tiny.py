"""A tiny random transformer, built without files."""

from __future__ import annotations

import torch

from surelock.models.config import ModelConfig
from surelock.models.transformer import Transformer

VOCAB = 48
MASK = 47


def tiny_config(**overrides: object) -> ModelConfig:
    """Two layers, 4 query heads over 2 key heads, 48 tokens of which the last is MASK."""
    values: dict[str, object] = {
        "family": "tiny",
        "vocab_size": VOCAB,
        "embedding_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "max_sequence_length": 96,
        "norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "mask_token_id": MASK,
        "eos_token_ids": (0,),
    }
    return ModelConfig(**{**values, **overrides})  # type: ignore[arg-type]


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: object) -> Transformer:
    """Random weights, wide enough that rows differ from each other and posteriors are neither flat nor saturated."""
    config = tiny_config(**overrides)
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config).requires_grad_(False).eval()
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            parameter.copy_(1.0 + 0.1 * noise)
        elif name == "embedding.weight":
            parameter.copy_(noise)
        else:
            parameter.copy_(noise * 1.2 / parameter.shape[-1] ** 0.5)
    return model.to(dtype)
