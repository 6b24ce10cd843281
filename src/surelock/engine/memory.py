"""What a run will take, predicted before anything is allocated. Pure arithmetic; everything is in bytes.

A request keeps keys, values and canvas for each of its positions from its first step to its last. A step takes more for
as long as it runs, in proportion to its rows: the layers' activations, then the head's logits. The two are never there
together, so the larger one counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from surelock.decoding.proposal import CUDA_LOGIT_ROWS
from surelock.errors import OutOfMemoryError, PromptError
from surelock.models.config import ModelConfig
from surelock.models.transformer import Transformer
from surelock.ops.step_kl.from_hidden import PART_TOKENS
from surelock.ops.step_kl.reference import CUDA_PART_ELEMENTS, PART_ELEMENTS
from surelock.ops.token_stats.reference import NOISE_ROWS

# Rows of a step unless the config says otherwise: enough to keep any device busy.
DEFAULT_MAX_ROWS: Final = 4096
# Position 0 of the pool belongs to padding rows.
NUM_RESERVED: Final = 1
# A position's token, state, age, origin and steps, in the canvas and in the results of a step.
STATE_BYTES: Final = 40
# A row's token, position, slot and places in the pool, as indices.
ROW_BYTES: Final = 64
# Float32 logits and their softmax; and noise, made of 64-bit integers and float64 numbers.
LOGIT_BYTES: Final = 8
NOISE_BYTES: Final = 64
# What is held for each element of one [rows, tokens] part of the KL's two sets of logits.
KL_BYTES: Final = 44


def kv_bytes_per_position(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of one position's keys and values in every layer, for one stream."""
    return 2 * config.num_layers * config.kv_size * dtype.itemsize


def canvas_bytes_per_position(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of one position of the canvas: its hidden row of this step and of the last one, and its state."""
    return 2 * config.hidden_size * dtype.itemsize + STATE_BYTES


def weight_bytes(model: Transformer) -> int:
    """Bytes of the parameters; tied ones count once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def activation_bytes(config: ModelConfig, dtype: torch.dtype, num_rows: int, *, device_type: str = "cuda") -> int:
    """Bytes of the largest set of tensors that a step of num_rows rows (all streams) holds at the same time.

    An upper bound that grows with num_rows: the plain PyTorch ops are counted, and the fused ones hold less.
    """
    hidden = num_rows * config.hidden_size
    # The final rows, the ones picked from them, and two float32 copies while guidance combines its streams.
    final = hidden * (2 * dtype.itemsize + 8)
    logits = max(_logit_bytes(config, num_rows), _kl_bytes(config, dtype, num_rows, device_type))
    return max(num_rows * _layer_bytes_per_row(config, dtype), final + logits)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What fits.

    Attributes:
        num_positions: capacity of the pool of keys and values, the reserved position included.
        max_rows: rows of a step of several requests.
        max_request_positions: positions a request may have, those of all its streams added up.
    """

    num_positions: int
    max_rows: int
    max_request_positions: int


def plan_memory(
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    free_bytes: int,
    fraction: float,
    max_rows: int = DEFAULT_MAX_ROWS,
    max_positions: int | None = None,
    device_type: str = "cuda",
) -> MemoryPlan:
    """Divide fraction x free_bytes between steps and positions.

    A step may have max_rows rows, or those of the longest guided request if they are more, as it runs alone; both are
    lowered to what half of the memory holds. The rest is for positions, at most max_positions of them where more could
    never be used.

    Raises:
        OutOfMemoryError: not even one row and one position fit.
    """
    budget = int(free_bytes * fraction)
    most_rows = _most_rows(config, dtype, budget // 2, max(max_rows, 2 * config.max_sequence_length), device_type)
    per_position = kv_bytes_per_position(config, dtype) + canvas_bytes_per_position(config, dtype)
    num_positions = (budget - activation_bytes(config, dtype, most_rows, device_type=device_type)) // per_position
    if most_rows == 0 or num_positions <= NUM_RESERVED:
        raise OutOfMemoryError(
            f"memory_fraction {fraction:g} of {free_bytes / 2**20:.1f} MiB free memory does not hold one position of "
            "this model beside a step: raise it, free memory, or use a smaller model or dtype"
        )
    if max_positions is not None:
        num_positions = min(num_positions, max(max_positions, NUM_RESERVED + 1))
    return MemoryPlan(num_positions, min(max_rows, most_rows), min(most_rows, num_positions - NUM_RESERVED))


def check_fits(plan: MemoryPlan, num_positions: int, num_streams: int) -> None:
    """Refuse a request of num_positions positions in num_streams streams that could never start.

    Raises:
        PromptError: it needs more than the plan holds.
    """
    num, limit = num_positions * num_streams, plan.max_request_positions
    if num <= limit:
        return
    streams = f" in {num_streams} streams (guidance)" if num_streams > 1 else ""
    way_out = "shorten it, set cfg_scale to 0" if num_streams > 1 else "shorten it"
    raise PromptError(
        f"the canvas needs memory for {num} positions{streams}; this engine's is enough for {limit}: {way_out}, "
        "or raise memory_fraction"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: of the device, of the interpreter, or of torch on a CPU, which says so in words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def _layer_bytes_per_row(config: ModelConfig, dtype: torch.dtype) -> int:
    """The largest set of one layer: its input twice over (sum and open summand), what it adds up to and its norm."""
    size, hidden, query = dtype.itemsize, config.hidden_size, config.query_size
    stream = 4 * hidden * size
    # Where the model's type is narrower, norms and rotations are computed on float32 copies.
    is_narrow = dtype != torch.float32
    norm = stream + 2 * (query + hidden) * size + 12 * hidden
    # Queries and keys are rotated together.
    rotated = query + config.kv_size
    rotation = stream + (2 * rotated + 2 * config.kv_size + query) * size + 10 * rotated * is_narrow
    feed_forward = stream + (2 * query + 4 * config.intermediate_size) * size
    return max(norm, rotation, feed_forward) + 4 * config.head_dim + ROW_BYTES


def _logit_bytes(config: ModelConfig, num_rows: int) -> int:
    """Choosing tokens: part of the logits, and noise for fewer rows still."""
    return config.embedding_size * (
        LOGIT_BYTES * min(num_rows, CUDA_LOGIT_ROWS) + NOISE_BYTES * min(num_rows, NOISE_ROWS)
    )


def _kl_bytes(config: ModelConfig, dtype: torch.dtype, num_rows: int, device_type: str) -> int:
    """Measuring how far posteriors moved: two hidden rows for each row, and part of their logits."""
    is_copied = dtype != torch.float32
    rows = 2 * num_rows * config.hidden_size * (dtype.itemsize + 4 * is_copied)
    head = 4 * min(config.embedding_size, PART_TOKENS) * config.hidden_size * is_copied
    part = CUDA_PART_ELEMENTS if device_type == "cuda" else PART_ELEMENTS
    elements = min(num_rows * config.embedding_size, max(part, num_rows))
    return rows + head * min(num_rows, 1) + KL_BYTES * elements


def _most_rows(config: ModelConfig, dtype: torch.dtype, budget: int, wanted: int, device_type: str) -> int:
    """The most rows up to `wanted` whose activations fit, by bisection: they grow with the rows."""
    fits, too_many = 0, wanted + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if activation_bytes(config, dtype, middle, device_type=device_type) <= budget:
            fits = middle
        else:
            too_many = middle
    return fits
