"""Writes tiny random LLaDA checkpoints, with tensor names spelt out here and not taken from the code under test."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from surelock.models.llada import parameter_sources, parse_config

TINY_CONFIG: dict[str, Any] = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 32,
    "embedding_size": 96,
    "eos_token_id": 77,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 79,
    "max_sequence_length": 128,
    "mlp_hidden_size": 48,
    "mlp_ratio": 4,
    "multi_query_attention": None,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "pad_token_id": 77,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 10000.0,
    "scale_logits": False,
    "torch_dtype": "float32",
    "vocab_size": 80,
    "weight_tying": False,
}


def tiny_config(**overrides: Any) -> dict[str, Any]:
    """A complete LLaDA config.json of a few thousand parameters, with some keys replaced."""
    return TINY_CONFIG | overrides


def write_checkpoint(
    folder: Path,
    *,
    num_shards: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    generation: Mapping[str, Any] | None = None,
    **config_overrides: Any,
) -> Path:
    """Writes config.json, generation_config.json if given, and random weights to `folder`; returns it."""
    config = tiny_config(**config_overrides)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    write_weights(folder, random_tensors(config, seed=seed, dtype=dtype), num_shards=num_shards)
    return folder


def write_sparse_checkpoint(folder: Path, *, dtype: str = "F32", **config_overrides: Any) -> Path:
    """Writes a checkpoint of any size that takes no room on the disk: its weights are zeros that were never written.

    Args:
        dtype: safetensors' name of the weights' type.
    """
    config = tiny_config(**config_overrides)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    end = 0
    for parts in parameter_sources(parse_config(config, {})).values():
        for part in parts:
            start, end = end, end + math.prod(part.shape) * (4 if dtype == "F32" else 2)
            header[part.name] = {"dtype": dtype, "shape": part.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + end)
    return folder


def write_weights(folder: Path, tensors: Mapping[str, torch.Tensor], *, num_shards: int = 1) -> None:
    """Writes `tensors` as model.safetensors, or dealt out to shards with an index, as the hub's tools name them."""
    if num_shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for number in range(num_shards):
        shard = f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::num_shards]}
        save_file(part, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    total_size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def random_tensors(
    config: Mapping[str, Any], *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Random weights of a LLaDA config.json under the reference's names."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}

    def add_norm(name: str, size: int) -> None:
        tensors[f"{name}.weight"] = (1 + 0.1 * torch.randn(size, generator=generator)).to(dtype)

    def add_linear(name: str, rows: int, columns: int, bias: bool) -> None:
        tensors[f"{name}.weight"] = (torch.randn(rows, columns, generator=generator) / columns**0.5).to(dtype)
        if bias:
            tensors[f"{name}.bias"] = (0.1 * torch.randn(rows, generator=generator)).to(dtype)

    hidden = config["d_model"]
    intermediate = config["mlp_hidden_size"] or config["mlp_ratio"] * hidden
    num_kv_heads = config["n_kv_heads"] or (1 if config["multi_query_attention"] else config["n_heads"])
    kv_size = num_kv_heads * hidden // config["n_heads"]
    rows = config["embedding_size"] or config["vocab_size"]
    bias = config["include_bias"]
    qkv_bias = bias or config["include_qkv_bias"]

    tensors["model.transformer.wte.weight"] = torch.randn(rows, hidden, generator=generator).to(dtype)
    for layer in _layer_names(config["n_layers"], config["block_group_size"]):
        add_norm(f"{layer}.attn_norm", hidden)
        add_linear(f"{layer}.q_proj", hidden, hidden, qkv_bias)
        add_linear(f"{layer}.k_proj", kv_size, hidden, qkv_bias)
        add_linear(f"{layer}.v_proj", kv_size, hidden, qkv_bias)
        if config["attention_layer_norm"]:
            add_norm(f"{layer}.q_norm", hidden)
            add_norm(f"{layer}.k_norm", kv_size)
        add_linear(f"{layer}.attn_out", hidden, hidden, bias)
        add_norm(f"{layer}.ff_norm", hidden)
        add_linear(f"{layer}.ff_proj", intermediate, hidden, bias)
        add_linear(f"{layer}.up_proj", intermediate, hidden, bias)
        add_linear(f"{layer}.ff_out", hidden, intermediate, bias)
    add_norm("model.transformer.ln_f", hidden)
    if not config["weight_tying"]:
        add_linear("model.transformer.ff_out", rows, hidden, bias)
    return tensors


def _layer_names(num_layers: int, group_size: int) -> Iterable[str]:
    for layer in range(num_layers):
        if group_size == 1:
            yield f"model.transformer.blocks.{layer}"
        else:
            yield f"model.transformer.block_groups.{layer // group_size}.{layer % group_size}"
