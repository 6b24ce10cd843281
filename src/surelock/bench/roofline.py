"""What the machine does at best, measured, and the time that best allows a step.

A step multiplies with every weight once, whatever the number of rows: below the break-even number of rows, reading the
weights takes longer than multiplying, fewer rows save nothing, and locking cannot pay.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from surelock.bench.driving import synchronize
from surelock.engine.memory import weight_bytes
from surelock.flops import RowCost
from surelock.models.config import ModelConfig
from surelock.models.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates of a large square matrix product and of a copy; bytes of a copy are those read and those written."""

    matmul_flops_per_s: float
    copy_bytes_per_s: float

    @property
    def facts(self) -> dict[str, float]:
        """For a result file."""
        return {"matmul_tflops": self.matmul_flops_per_s / 1e12, "copy_tb_per_s": self.copy_bytes_per_s / 1e12}


def measure_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """The rates of this machine, in this type; a fraction of a second."""
    on_gpu = device.type == "cuda"
    size, num_bytes = (8192, 1 << 30) if on_gpu else (1024, 1 << 26)
    generator = torch.Generator(device).manual_seed(0)
    square = torch.randn((size, size), device=device, generator=generator).to(dtype)
    flops = 2 * size**3 / best_seconds(lambda: square @ square, device, patience=0.3, captured=False)
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * num_bytes / best_seconds(lambda: target.copy_(source), device, patience=0.3, captured=False)
    return Limits(flops, copied)


def best_seconds(
    run: Callable[[], object], device: torch.device, *, patience: float = 0.05, captured: bool = True
) -> float:
    """Seconds of one call at its fastest, after a warm-up.

    Of single calls on a CPU, where one may be interrupted, for `patience` seconds; of groups of calls on a CUDA device,
    captured as one graph, as the engine runs them, or with captured=False launched one by one, which is for calls that
    wait for the device.
    """
    run()
    synchronize(device)
    if device.type == "cuda":
        num_calls = max(1, min(200, round(0.01 / max(_queued_seconds(run, 1), 1e-7))))
        if not captured:
            return min(_queued_seconds(run, num_calls) for _ in range(5)) / num_calls
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(num_calls):
                run()
        graph.replay()
        return min(_queued_seconds(graph.replay, 1) for _ in range(5)) / num_calls
    fastest, end = float("inf"), time.perf_counter() + patience
    num_calls = 0
    while num_calls < 3 or (time.perf_counter() < end and num_calls < 1000):
        start = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - start)
        num_calls += 1
    return fastest


def _queued_seconds(run: Callable[[], object], num_calls: int) -> float:
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    before.record()
    for _ in range(num_calls):
        run()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after)) / 1000


def bytes_read(model: Transformer) -> int:
    """Bytes of the weights every step reads: all but the embedding, unless it is the head as well."""
    embedding = 0 if model.head is None else model.embedding.weight.nbytes
    return weight_bytes(model) - embedding


@dataclass(frozen=True, slots=True)
class StepFloor:
    """The least time of a step, in milliseconds, if only products and reading the weights took any."""

    flops_ms: float
    weights_ms: float

    @property
    def ms(self) -> float:
        """The larger of the two: one overlaps with the other at best."""
        return max(self.flops_ms, self.weights_ms)


def step_floor(
    model: Transformer, limits: Limits, *, num_rows: float, num_head_rows: float, num_positions: int
) -> StepFloor:
    """Floor of a step of num_rows rows in total, which attend to num_positions keys each."""
    cost = RowCost.from_config(model.config)
    flops = num_rows * cost.transformer(num_positions) + num_head_rows * cost.head
    return StepFloor(1000 * flops / limits.matmul_flops_per_s, 1000 * bytes_read(model) / limits.copy_bytes_per_s)


def break_even_rows(config: ModelConfig, itemsize: int, limits: Limits) -> float:
    """Rows of a step, over all requests, whose products take as long as reading the weights of the layers."""
    linear = RowCost.from_config(config).linear
    # Two operations to a weight.
    return (linear / 2 * itemsize / limits.copy_bytes_per_s) / (linear / limits.matmul_flops_per_s)
