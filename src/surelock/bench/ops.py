"""Each hot operation against the least time its bytes and FLOPs allow on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from surelock.bench.result import BenchResult, Progress, Row, no_progress
from surelock.bench.roofline import Limits, best_seconds, measure_limits
from surelock.bench.subject import Subject
from surelock.errors import ParameterError
from surelock.ops import add_norm, rope_store, row_attention, step_kl, swiglu, token_stats
from surelock.ops.dispatch import is_fast
from surelock.ops.head_logits import head_logits
from surelock.ops.row_attention import RowSpan, Spans
from surelock.ops.token_stats import TokenStats

MAX_ROWS: Final = 1 << 16

METHOD: Final = (
    "Fastest call on a CPU; on a GPU the fastest of five groups of calls, captured as a graph as the engine runs them, "
    "but for plain twins, which are launched one by one. Floor: the larger of bytes / rate of a copy and "
    "FLOPs / rate of a large square product, both measured in the same run; bytes are each input and output once. On "
    "a CPU tensors stay in its caches, so the floor of a small op may be beaten. difference: the largest absolute "
    "difference to the plain reference."
)

Outputs = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class _Case:
    """One op at one size. `chosen` is what the engine runs; `reference`, its plain twin, is None where that is it."""

    op: str
    chosen: Callable[[], Outputs]
    reference: Callable[[], Outputs] | None
    num_bytes: int
    flops: int


@torch.inference_mode()
def run_ops(
    subject: Subject, *, num_rows: Sequence[int], num_positions: int, progress: Progress = no_progress
) -> BenchResult:
    """Time every op of a layer, the head and the test for locking at each number of rows.

    Args:
        num_positions: keys each row attends to; rows are those of as few requests as hold them.

    Raises:
        ParameterError: a number of rows is out of its limits, or the canvas is longer than the model's limit.
    """
    subject.check_length("--positions", num_positions)
    for rows in num_rows:
        if not 1 <= rows <= MAX_ROWS:
            raise ParameterError(f"--rows holds {rows}; each must be from 1 to {MAX_ROWS}")
    progress("limits of the machine")
    limits = measure_limits(subject.device, subject.model.dtype)
    found = []
    for rows in num_rows:
        for make in _MAKERS:
            for case in make(_Sizes(subject, rows, num_positions)):
                progress(f"{case.op}, {rows} rows")
                found.append(_measure(case, subject, rows, limits))
    facts: dict[str, Any] = {
        **{name: subject.facts[name] for name in ("model", "dtype", "device")},
        "positions": num_positions,
        "matmul_tflops": limits.matmul_flops_per_s / 1e12,
        "copy_tb_per_s": limits.copy_bytes_per_s / 1e12,
    }
    return BenchResult("ops", METHOD, facts, found)


def _measure(case: _Case, subject: Subject, num_rows: int, limits: Limits) -> Row:
    reference_seconds, difference = None, None
    if case.reference is not None:
        # The first call: some ops overwrite their input.
        pairs = zip(case.chosen(), case.reference(), strict=True)
        difference = max(float((a.float() - b.float()).abs().max()) for a, b in pairs)
        reference_seconds = best_seconds(case.reference, subject.device, captured=False)
    seconds = best_seconds(case.chosen, subject.device)
    floor = max(case.num_bytes / limits.copy_bytes_per_s, case.flops / limits.matmul_flops_per_s)
    return {
        "op": case.op,
        "rows": num_rows,
        "chosen": "fused" if case.reference is not None else "plain",
        "us": 1e6 * seconds,
        "floor_us": 1e6 * floor,
        "times_floor": seconds / floor,
        "plain_us": 1e6 * (seconds if reference_seconds is None else reference_seconds),
        "difference": difference,
        "bytes": case.num_bytes,
        "flops": case.flops,
    }


class _Sizes:
    """Random inputs of one number of rows, in the model's type and on its device."""

    def __init__(self, subject: Subject, num_rows: int, num_positions: int) -> None:
        self.model = subject.model
        self.config = subject.config
        self.num_rows = num_rows
        self.num_positions = num_positions
        self.num_requests = -(-num_rows // num_positions)
        self.is_fast = is_fast(subject.device)
        self._generator = torch.Generator(subject.device).manual_seed(0)

    def random(self, *shape: int) -> Tensor:
        """Normal numbers."""
        model = self.model
        return torch.randn(shape, device=model.device, generator=self._generator).to(model.dtype)

    def weight(self, name: str) -> Tensor:
        """A parameter of the first layer."""
        parameter: Tensor = self.model.get_parameter(f"layers.0.{name}")
        return parameter


def _num_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


def _products(sizes: _Sizes) -> list[_Case]:
    """The matrix products of a layer; torch's own, with no twin."""
    cases = []
    for name in ("qkv", "attn_out", "gate_up", "down"):
        weight = sizes.weight(f"{name}.weight")
        x = sizes.random(sizes.num_rows, weight.shape[1])
        out = x.new_empty((sizes.num_rows, weight.shape[0]))
        shape = f"{weight.shape[1]}x{weight.shape[0]}"
        flops = 2 * sizes.num_rows * weight.numel()
        run = partial(_product, x, weight)
        cases.append(_Case(f"product {name} {shape}", run, None, _num_bytes(x, weight, out), flops))
    return cases


def _product(x: Tensor, weight: Tensor) -> Outputs:
    return (F.linear(x, weight),)


def _add_norm(sizes: _Sizes) -> list[_Case]:
    x, delta = (
        sizes.random(sizes.num_rows, sizes.config.hidden_size),
        sizes.random(sizes.num_rows, sizes.config.hidden_size),
    )
    weight, eps = sizes.weight("attn_norm.weight"), sizes.config.norm_eps
    return [
        _Case(
            "add_norm",
            lambda: add_norm.add_norm(x, delta, weight, eps),
            (lambda: add_norm.reference(x, delta, weight, eps)) if sizes.is_fast else None,
            _num_bytes(x, delta, x, x),
            0,
        )
    ]


def _swiglu(sizes: _Sizes) -> list[_Case]:
    gate_up = sizes.random(sizes.num_rows, 2 * sizes.config.intermediate_size)
    return [
        _Case(
            "swiglu",
            lambda: (swiglu.swiglu(gate_up),),
            (lambda: (swiglu.reference(gate_up),)) if sizes.is_fast else None,
            _num_bytes(gate_up) * 3 // 2,
            0,
        )
    ]


def _rope_store(sizes: _Sizes) -> list[_Case]:
    config, device = sizes.config, sizes.model.device
    qkv = sizes.random(sizes.num_rows, config.query_size + 2 * config.kv_size)
    row = torch.arange(sizes.num_rows, device=device)
    rotation = sizes.model.rotation(row % sizes.num_positions)
    shape = (sizes.num_rows, config.num_kv_heads, config.head_dim)

    def case(op: Callable[..., Tensor], qkv: Tensor) -> Callable[[], Outputs]:
        keys, values = qkv.new_zeros(shape), qkv.new_zeros(shape)
        return lambda: (op(qkv, *rotation, row, keys, values), keys, values)

    # Rotated in place by a fused kernel: each side has its own copy, and rotations keep the numbers' size.
    return [
        _Case(
            "rope_store",
            case(rope_store.rope_store, qkv.clone()),
            case(rope_store.reference, qkv.clone()) if sizes.is_fast else None,
            _num_bytes(qkv, qkv, *rotation),
            0,
        )
    ]


def _row_attention(sizes: _Sizes) -> list[_Case]:
    config = sizes.config
    shape = (sizes.num_requests * sizes.num_positions, config.num_kv_heads, config.head_dim)
    queries = sizes.random(sizes.num_rows, config.num_heads, config.head_dim)
    keys, values = sizes.random(*shape), sizes.random(*shape)
    full, rest = divmod(sizes.num_rows, sizes.num_positions)
    counts = [sizes.num_positions] * full + [rest] * (rest > 0)
    num_keys = sizes.num_positions
    spans = Spans.of([RowSpan(i * num_keys, num, num_keys) for i, num in enumerate(counts)], sizes.model.device)
    has_twin = sizes.is_fast and queries.dtype != torch.float32
    return [
        _Case(
            "row_attention",
            lambda: (row_attention.row_attention(queries, keys, values, spans),),
            (lambda: (row_attention.reference(queries, keys, values, spans),)) if has_twin else None,
            _num_bytes(queries, keys, values, queries),
            4 * sizes.num_rows * sizes.num_positions * config.query_size,
        )
    ]


def _head_logits(sizes: _Sizes) -> list[_Case]:
    head, hidden = sizes.model.lm_head, sizes.random(sizes.num_rows, sizes.config.hidden_size)
    num_bytes = _num_bytes(head.weight, hidden) + 4 * sizes.num_rows * head.vocab_size
    flops = 2 * sizes.num_rows * head.weight.numel()
    return [_Case("head_logits", lambda: (head_logits(hidden, head),), None, num_bytes, flops)]


def _token_stats(sizes: _Sizes) -> list[_Case]:
    """Greedy choice, as it is without a temperature."""
    num, device = sizes.num_rows, sizes.model.device
    logits = sizes.random(num, sizes.model.lm_head.vocab_size)
    zeros = torch.zeros(num, dtype=torch.int64, device=device)

    def case(op: Callable[..., TokenStats]) -> Callable[[], Outputs]:
        mask_token_id = sizes.config.mask_token_id
        return lambda: op(
            logits, mask_token_id=mask_token_id, allow_mask=zeros.bool(), temperature=zeros.double(), key=zeros,
            may_sample=False,
        )[1:]  # fmt: skip

    twin = case(token_stats.reference) if sizes.is_fast else None
    return [_Case("token_stats", case(token_stats.token_stats), twin, _num_bytes(logits), 0)]


def _kl_from_logits(sizes: _Sizes) -> list[_Case]:
    shape = (sizes.num_rows, sizes.model.lm_head.vocab_size)
    logits, previous = sizes.random(*shape).float(), sizes.random(*shape).float()
    twin = (lambda: step_kl.reference(logits, previous)) if sizes.is_fast else None
    num_bytes = _num_bytes(logits, previous)
    return [_Case("kl_from_logits", lambda: step_kl.kl_from_logits(logits, previous), twin, num_bytes, 0)]


def _step_kl(sizes: _Sizes) -> list[_Case]:
    head = sizes.model.lm_head
    hidden, previous = (sizes.random(sizes.num_rows, sizes.config.hidden_size) for _ in range(2))
    flops = 4 * sizes.num_rows * head.weight.numel()
    return [
        _Case(
            "step_kl",
            lambda: step_kl.step_kl(hidden, previous, head),
            None,
            _num_bytes(head.weight, hidden, previous),
            flops,
        )
    ]


_MAKERS: Final[tuple[Callable[[_Sizes], list[_Case]], ...]] = (
    _products,
    _add_norm,
    _rope_store,
    _row_attention,
    _swiglu,
    _head_logits,
    _token_stats,
    _kl_from_logits,
    _step_kl,
)
