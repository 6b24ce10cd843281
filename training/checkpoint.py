"""Checkpoints in LLaDA's format: what `surelock --model` loads, and what the next leg starts from."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from surelock.models.shards import SINGLE_FILE, read_tensors
from training.model import MaskedDiffusionModel, Shape

PREFIX: Final = "model.transformer."


def config_of(shape: Shape) -> dict[str, Any]:
    """config.json of a LLaDA model of `shape`."""
    return {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "bos_token_id": 2,
        "d_model": shape.d_model,
        "embedding_dropout": 0.0,
        "embedding_size": shape.vocab_size,
        "eos_token_id": 0,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": 1,
        "max_sequence_length": shape.max_sequence_length,
        "mlp_hidden_size": shape.mlp_hidden_size,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_heads,
        "n_layers": shape.n_layers,
        "pad_token_id": 0,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": shape.rope_theta,
        "scale_logits": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "vocab_size": shape.vocab_size,
        "weight_tying": False,
    }


def shape_of(folder: Path) -> Shape:
    """The shape in a checkpoint's config.json."""
    config = json.loads((folder / "config.json").read_text())
    return Shape(**{field.name: config[field.name] for field in fields(Shape)})


def save_checkpoint(model: MaskedDiffusionModel, folder: Path, tokenizer: Path, facts: dict[str, Any]) -> None:
    """Write weights (bfloat16), config, tokenizer and `training.json` (`facts`) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {PREFIX + name: value.detach().bfloat16().contiguous() for name, value in model.state_dict().items()}
    save_file({name: value.cpu() for name, value in weights.items()}, folder / SINGLE_FILE, {"format": "pt"})
    _write(folder / "config.json", config_of(model.shape))
    _write(folder / "generation_config.json", {"bos_token_id": 2, "eos_token_id": [0, 3], "pad_token_id": 0})
    _write(folder / "training.json", facts)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(tokenizer / name, folder / name)


def load_weights(model: MaskedDiffusionModel, folder: Path) -> None:
    """Read the weights of a checkpoint of the same shape, which may be the embedded model.

    Raises:
        RuntimeError: a tensor is missing, unknown, or of another shape.
        WeightsError: the files cannot be read.
    """
    weights = read_tensors(folder)
    with torch.no_grad():
        model.load_state_dict({name.removeprefix(PREFIX): value.float() for name, value in weights.items()})


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
