"""LLaDA's own sampler: `generate.py` of github.com/ML-GSAI/LLaDA over the reference modelling file, eager.

The folder holds generate.py, modeling_llada.py and configuration_llada.py (the latter two from a LLaDA checkpoint).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from surelock.models.config import ModelConfig

from .clock import step_ms
from .llada import build
from .loading import bare_package
from .loading import load as load_module

PACKAGE = "surelock_peer_code_official"
NUM_WARM_UP, NUM_TIMED = 4, 32


@dataclass(frozen=True)
class Official:
    """See `surelock.bench.baselines.Baseline`."""

    model: Any
    generate: Any
    config: ModelConfig
    device: torch.device
    name: str = "official"
    facts: dict[str, Any] = field(
        default_factory=lambda: {
            "name": "official",
            "code": "generate.py of ML-GSAI/LLaDA over the reference modelling file, eager, random weights",
            "method": "cost per step is constant: 32 steady steps timed, whatever comes between forwards included",
        }
    )

    def step_ms(self, num_requests: int, num_prompt: int, max_tokens: int) -> float | None:
        """Mean milliseconds of a step of such a batch."""
        ids = torch.randint(0, self.config.vocab_size - 1, (num_requests, num_prompt), device=self.device)
        prompt = torch.where(ids == self.config.mask_token_id, 0, ids)

        def run() -> None:
            self.generate(
                self.model, prompt, steps=max_tokens, gen_length=max_tokens, block_length=max_tokens,
                mask_id=self.config.mask_token_id,
            )  # fmt: skip

        num_warm_up = min(NUM_WARM_UP, max_tokens - 1)
        return step_ms(self.model, run, num_warm_up=num_warm_up, num_timed=NUM_TIMED, device=self.device)


def load(folder: Path, config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> Official:
    """Build the model with random weights."""
    bare_package(PACKAGE, folder)
    configuration = load_module(f"{PACKAGE}.configuration_llada")
    modelling = load_module(f"{PACKAGE}.modeling_llada")
    generate = load_module(f"{PACKAGE}.generate").generate
    return Official(build(modelling, configuration, config, device, dtype), generate, config, device)
