"""`Family`: what surelock must know to read the checkpoints of one model family. Data, no computation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from surelock.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Source:
    """One tensor of a checkpoint file: its name there and its shape."""

    name: str
    shape: tuple[int, ...]


def norm_sources(ours: str, theirs: str, size: int) -> dict[str, tuple[Source, ...]]:
    """The weight of a norm."""
    return {f"{ours}.weight": (Source(f"{theirs}.weight", (size,)),)}


def linear_sources(
    ours: str, theirs: Mapping[str, int], num_inputs: int, *, bias: bool
) -> dict[str, tuple[Source, ...]]:
    """The weight and bias of a projection made up of theirs, each name with its number of outputs, in this order."""
    sources = {f"{ours}.weight": tuple(Source(f"{name}.weight", (rows, num_inputs)) for name, rows in theirs.items())}
    if bias:
        sources[f"{ours}.bias"] = tuple(Source(f"{name}.bias", (rows,)) for name, rows in theirs.items())
    return sources


def _no_sources(config: ModelConfig) -> tuple[Source, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Family:
    """How the checkpoints of one family are read.

    Attributes:
        name: short name, for messages.
        architectures: values of `architectures[0]` in config.json that belong to the family.
        parse_config: config.json and generation_config.json (or an empty mapping) to a `ModelConfig`. Raises
            ConfigError.
        parameter_sources: name of each of our parameters to the checkpoint tensors that make it up, concatenated along
            dimension 0 (docs of `ModelConfig` give the sizes):
            `embedding.weight` [E, d]; for layer i `layers.{i}.attn_norm.weight` [d], `.qkv.weight`
            [(Hq + 2 Hkv) hd, d] and `.qkv.bias`, `.q_norm.weight` [Hq hd], `.k_norm.weight` [Hkv hd],
            `.attn_out.weight` [d, Hq hd] and `.bias`, `.ff_norm.weight` [d], `.gate_up.weight` [2 m, d] and `.bias`
            (gate first), `.down.weight` [d, m] and `.bias`; `norm.weight` [d]; `head.weight` [E, d] and `.bias`,
            absent when tied to the embedding.
        ignored_sources: tensors a checkpoint may hold that are not read, such as a head that is tied. Their shape
            must still fit. Every other tensor that is not a parameter is an error.
    """

    name: str
    architectures: tuple[str, ...]
    parse_config: Callable[[Mapping[str, Any], Mapping[str, Any]], ModelConfig]
    parameter_sources: Callable[[ModelConfig], dict[str, tuple[Source, ...]]]
    ignored_sources: Callable[[ModelConfig], tuple[Source, ...]] = _no_sources
