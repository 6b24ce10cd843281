"""The reference modelling file of LLaDA, or a peer's copy of it, with random weights of our sizes.

Every copy breaks in `from_pretrained` of transformers 5 (`all_tied_weights_keys`, arguments of `tie_weights`); building
the inner model directly goes around that. `use_cache` must be set after the config is built.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from surelock.errors import ParameterError
from surelock.models.config import ModelConfig


def build(modelling: Any, configuration: Any, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """`LLaDAModelLM` of the module, in `dtype` on `device`.

    Raises:
        ParameterError: the reference has no model of this config.
    """
    unsupported = [name for name in ("qk_norm", "scale_embeddings") if getattr(config, name)]
    if unsupported:
        raise ParameterError(f"--baseline: the reference LLaDA code has no {unsupported[0]}; measure another model")
    values: dict[str, Any] = {
        "d_model": config.hidden_size,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "n_layers": config.num_layers,
        "mlp_hidden_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "embedding_size": config.embedding_size,
        "max_sequence_length": config.max_sequence_length,
        "rope": True,
        "rope_theta": config.rope_theta,
        "rope_full_precision": config.rope_full_precision,
        "layer_norm_type": "rms",
        "rms_norm_eps": config.norm_eps,
        "activation_type": "silu",
        "block_type": "llama",
        "block_group_size": 1,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "attention_layer_norm": False,
        "layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "include_bias": config.bias,
        "include_qkv_bias": config.qkv_bias,
        "weight_tying": config.tie_embeddings,
        "scale_logits": config.scale_logits,
        "flash_attention": False,
        "mask_token_id": config.mask_token_id,
        "eos_token_id": config.eos_token_ids[0] if config.eos_token_ids else 0,
        "pad_token_id": 0,
        "init_device": str(device),
    }
    known = {field.name for field in fields(configuration.ModelConfig)}
    assert values.keys() <= known
    inner_config = configuration.ModelConfig(**values)
    # The reference compares with members of these classes.
    inner_config.layer_norm_type = configuration.LayerNormType.rms
    inner_config.activation_type = configuration.ActivationType.silu
    inner_config.block_type = configuration.BlockType.llama
    outer_config = configuration.LLaDAConfig(**values)
    outer_config.use_cache = False
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        inner = _inner(modelling, inner_config, outer_config)
        model = modelling.LLaDAModelLM(outer_config, model=inner)
    finally:
        torch.set_default_dtype(before)
    for parameter in model.requires_grad_(False).parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.02)
        else:
            parameter.fill_(1)
    return model.to(device).eval()


def _inner(modelling: Any, inner_config: Any, outer_config: Any) -> Any:
    """`LLaDAModel`, whose base class wants a `PretrainedConfig` while it reads a `ModelConfig`."""
    try:
        return modelling.LLaDAModel(inner_config, init_params=False)
    except (ValueError, TypeError, AttributeError):
        for name in ("layer_norm_type", "activation_type", "block_type"):
            setattr(outer_config, name, getattr(inner_config, name))
        return modelling.LLaDAModel(outer_config, init_params=False)
