"""dInfer's block-wise decoding with a dual cache: `python/dinfer` of github.com/inclusionAI/dInfer, eager.

The folder is the repository, its `python` folder or the package itself. Its decoders take several tokens a step on
random weights, so one of ours takes the most confident one; all else is dInfer's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surelock.models.config import ModelConfig

from .clock import step_ms
from .llada import build
from .loading import bare_package, stub
from .loading import load as load_module

PACKAGE = "surelock_peer_code_dinfer"
BLOCK = 32


@dataclass(frozen=True)
class OneToken:
    """A decoder in dInfer's form: the most confident masked token of each request's block."""

    mask_id: int
    eos_id: int

    def block_init(self, block: Tensor, block_id: int) -> None:
        """Nothing is kept from step to step."""

    def decode(self, logits: Tensor, block_start: int, block_end: int, x: Any, iter_threshold: object = None) -> None:
        """Write one token of each request into x."""
        current = x[:, block_start:block_end]
        logits[..., self.mask_id] = -torch.inf
        confidence, token = logits.float().softmax(-1).max(-1)
        best = torch.where(current == self.mask_id, confidence, -1.0).argmax(1, keepdim=True)
        x[:, block_start:block_end] = current.scatter(1, best, token.gather(1, best))


@dataclass(frozen=True)
class DInfer:
    """See `surelock.bench.baselines.Baseline`."""

    model: Any
    uniform: Any
    utils: Any
    config: ModelConfig
    device: torch.device
    name: str = "dinfer"
    facts: dict[str, Any] = field(
        default_factory=lambda: {
            "name": "dinfer",
            "code": "BlockWiseDiffusionLLM of inclusionAI/dInfer, dual cache, blocks of 32, eager, random weights",
            "method": "one token a forward, chosen by a decoder of ours; the forwards of the second block timed, its "
            "full one among them",
        }
    )

    def step_ms(self, num_requests: int, num_prompt: int, max_tokens: int) -> float | None:
        """Mean milliseconds of a step; None for tokens that make no two blocks."""
        if max_tokens % BLOCK or max_tokens < 2 * BLOCK:
            return None
        ids = torch.randint(0, self.config.vocab_size - 1, (num_requests, num_prompt), device=self.device)
        prompt = torch.where(ids == self.config.mask_token_id, 0, ids)
        decoder = OneToken(self.config.mask_token_id, self.config.eos_token_ids[0] if self.config.eos_token_ids else 0)
        engine = self.uniform.BlockWiseDiffusionLLM(
            self.model, decoder, self.utils.BlockIteratorFactory(), early_stop=False,
            cache_factory=self.utils.KVCacheFactory("dual"), maximum_unroll=1,
        )  # fmt: skip
        return step_ms(
            self.model, lambda: engine.generate(prompt, gen_length=max_tokens, block_length=BLOCK),
            num_warm_up=BLOCK, num_timed=BLOCK, device=self.device,
        )  # fmt: skip


def load(folder: Path, config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> DInfer:
    """Build the model with random weights."""
    homes = (folder / "python" / "dinfer", folder / "dinfer", folder)
    package = next((home for home in homes if (home / "decoding").is_dir()), folder)
    # For a block type that is not used.
    stub("einops", rearrange=None)
    stub("vllm")
    stub("vllm.distributed", get_tensor_model_parallel_rank=lambda: 0, get_tensor_model_parallel_world_size=lambda: 1)
    bare_package(PACKAGE, package)
    bare_package(f"{PACKAGE}.model", package / "model")
    bare_package(f"{PACKAGE}.decoding", package / "decoding")
    configuration = load_module(f"{PACKAGE}.model.configuration_llada")
    modelling = load_module(f"{PACKAGE}.model.modeling_llada")
    uniform = load_module(f"{PACKAGE}.decoding.generate_uniform")
    utils = load_module(f"{PACKAGE}.decoding.utils")
    return DInfer(build(modelling, configuration, config, device, dtype), uniform, utils, config, device)
