"""Named shapes of models, built with random weights on the fly: speed depends on sizes, not on what was learnt."""

from __future__ import annotations

from typing import Final

import torch

from surelock.errors import ParameterError, shown
from surelock.models.config import ModelConfig
from surelock.models.transformer import Transformer

LLADA_8B: Final = ModelConfig(
    family="llada", vocab_size=126464, embedding_size=126464, hidden_size=4096, intermediate_size=12288,
    num_layers=32, num_heads=32, num_kv_heads=32, head_dim=128, max_sequence_length=4096, norm_eps=1e-5,
    rope_theta=500_000.0, mask_token_id=126336, eos_token_ids=(126081,),
)  # fmt: skip
TINY: Final = ModelConfig(
    family="llada", vocab_size=256, embedding_size=256, hidden_size=32, intermediate_size=48,
    num_layers=2, num_heads=4, num_kv_heads=4, head_dim=8, max_sequence_length=512, norm_eps=1e-5,
    rope_theta=10_000.0, mask_token_id=255, eos_token_ids=(0,),
)  # fmt: skip
SHAPES: Final = {"llada-8b": LLADA_8B, "tiny": TINY}

# Beyond the weights: keys and values, canvases, logits, graphs.
_ROOM_FACTOR: Final = 1.25
# A model above this is too slow on a CPU to measure anything with.
_MAX_CPU_BYTES: Final = 1 << 30


def random_model(name: str, *, device: torch.device, dtype: torch.dtype | None = None) -> Transformer:
    """A transformer of that shape with normal weights of deviation 0.02, norms at 1; the same weights every time.

    Args:
        name: one of `SHAPES`.
        device: where it is built.
        dtype: of the weights. None: bfloat16 on a CUDA device, float32 on a CPU.

    Raises:
        ParameterError: the shape is unknown, or the device cannot hold it.
    """
    if name not in SHAPES:
        raise ParameterError(f"--shape is {shown(name)}; use one of {', '.join(SHAPES)}")
    config = SHAPES[name]
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    with torch.device("meta"):
        model = Transformer(config)
    _check_room(name, sum(p.numel() for p in model.parameters()) * dtype.itemsize, device)
    model = model.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    generator = torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.02, generator=generator)
        else:
            parameter.fill_(1)
    return model


def _check_room(name: str, num_bytes: int, device: torch.device) -> None:
    size = f"{num_bytes / 2**30:.0f} GiB of weights"
    if device.type != "cuda":
        if num_bytes > _MAX_CPU_BYTES:
            raise ParameterError(f"--shape {name} has {size}, which needs a CUDA device; leave --shape out on a CPU")
        return
    free = torch.cuda.mem_get_info(device)[0]
    if free < num_bytes * _ROOM_FACTOR:
        raise ParameterError(
            f"--shape {name} has {size}; {device} has {free / 2**30:.0f} GiB free: use a larger or an idle GPU"
        )
