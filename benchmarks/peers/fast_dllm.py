"""Fast-dLLM's dual cache: `llada/` of github.com/NVlabs/Fast-dLLM, blocks of 32 tokens, one request at a time.

The folder is `llada/` of the repository: generate.py and model/.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from surelock.models.config import ModelConfig

from .clock import step_ms
from .llada import build
from .loading import bare_package, stub
from .loading import load as load_module

PACKAGE = "surelock_peer_code_fast_dllm"
BLOCK = 32


@dataclass(frozen=True)
class FastDLLM:
    """See `surelock.bench.baselines.Baseline`."""

    model: Any
    generate: Any
    config: ModelConfig
    device: torch.device
    name: str = "fast-dllm"
    facts: dict[str, Any] = field(
        default_factory=lambda: {
            "name": "fast-dllm",
            "code": "generate_with_dual_cache of NVlabs/Fast-dLLM, blocks of 32, random weights",
            "method": "one token a step; the steps of the second block timed, its full forward among them; one request",
        }
    )

    def step_ms(self, num_requests: int, num_prompt: int, max_tokens: int) -> float | None:
        """Mean milliseconds of a step; None for more than one request and for tokens that make no two blocks."""
        if num_requests != 1 or max_tokens % BLOCK or max_tokens < 2 * BLOCK:
            return None
        ids = torch.randint(0, self.config.vocab_size - 1, (1, num_prompt), device=self.device)
        prompt = torch.where(ids == self.config.mask_token_id, 0, ids)

        def run() -> None:
            self.generate(
                self.model, prompt, steps=max_tokens, gen_length=max_tokens, block_length=BLOCK,
                mask_id=self.config.mask_token_id,
            )  # fmt: skip

        return step_ms(self.model, run, num_warm_up=BLOCK, num_timed=BLOCK, device=self.device)


def load(folder: Path, config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> FastDLLM:
    """Build the model with random weights."""
    # For a block type that is not used.
    stub("einops", rearrange=None)
    bare_package(PACKAGE, folder)
    bare_package(f"{PACKAGE}.model", folder / "model")
    configuration = load_module(f"{PACKAGE}.model.configuration_llada")
    modelling = load_module(f"{PACKAGE}.model.modeling_llada")
    # generate.py imports it by this name.
    sys.modules["model.modeling_llada"] = modelling
    generate = load_module(f"{PACKAGE}.generate").generate_with_dual_cache
    return FastDLLM(build(modelling, configuration, config, device, dtype), generate, config, device)
