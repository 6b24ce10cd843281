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

# A tensor, or a tuple of some.
_Outputs = Any


@dataclass(frozen=True, slots=True)
class _Case:
    """One op at one size.

    `chosen` is what the engine runs. `reference` is the plain implementation of an op that has a fused one; it is only
    run where the engine runs the fused one.
    """

    op: str
    chosen: Callable[[], _Outputs]
    num_bytes: int
    flops: int = 0
    reference: Callable[[], _Outputs] | None = None


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
        **limits.facts,
    }
    return BenchResult("ops", METHOD, facts, found)


def _measure(case: _Case, subject: Subject, num_rows: int, limits: Limits) -> Row:
    reference_seconds, difference = None, None
    if case.reference is not None:
        # The first call: some ops overwrite their input.
        pairs = zip(_tensors(case.chosen()), _tensors(case.reference()), strict=True)
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


def _tensors(outputs: _Outputs) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


class _Sizes:
    """Random inputs of one number of rows, in the model's type and on its device."""

    def __init__(self, subject: Subject, num_rows: int, num_positions: int) -> None:
        self.model = subject.model
        self.config = subject.config
        self.num_rows = num_rows
        self.num_positions = num_positions
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

    def hidden(self) -> Tensor:
        """Rows of the model's width."""
        return self.random(self.num_rows, self.config.hidden_size)

    def twin(self, reference: Callable[[], _Outputs]) -> Callable[[], _Outputs] | None:
        """The plain implementation, where the engine runs the fused one."""
        return reference if self.is_fast else None


def _num_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


def _products(sizes: _Sizes) -> list[_Case]:
    """The matrix products of a layer, which torch computes in either case."""
    cases = []
    for name in ("qkv", "attn_out", "gate_up", "down"):
        weight = sizes.weight(f"{name}.weight")
        x = sizes.random(sizes.num_rows, weight.shape[1])
        out = x.new_empty((sizes.num_rows, weight.shape[0]))
        shape = f"{weight.shape[1]}x{weight.shape[0]}"
        flops = 2 * sizes.num_rows * weight.numel()
        cases.append(_Case(f"product {name} {shape}", partial(F.linear, x, weight), _num_bytes(x, weight, out), flops))
    return cases


def _add_norm(sizes: _Sizes) -> list[_Case]:
    x = sizes.hidden()
    inputs = x, sizes.hidden(), sizes.weight("attn_norm.weight"), sizes.config.norm_eps
    twin = sizes.twin(partial(add_norm.reference, *inputs))
    return [_Case("add_norm", partial(add_norm.add_norm, *inputs), 4 * _num_bytes(x), reference=twin)]


def _swiglu(sizes: _Sizes) -> list[_Case]:
    gate_up = sizes.random(sizes.num_rows, 2 * sizes.config.intermediate_size)
    twin = sizes.twin(partial(swiglu.reference, gate_up))
    return [_Case("swiglu", partial(swiglu.swiglu, gate_up), _num_bytes(gate_up) * 3 // 2, reference=twin)]


def _rope_store(sizes: _Sizes) -> list[_Case]:
    config = sizes.config
    qkv = sizes.random(sizes.num_rows, config.query_size + 2 * config.kv_size)
    row = torch.arange(sizes.num_rows, device=sizes.model.device)
    rotation = sizes.model.rotation(row % sizes.num_positions)

    def case(op: Callable[..., Tensor], qkv: Tensor) -> Callable[[], _Outputs]:
        keys, values = (qkv.new_zeros((sizes.num_rows, config.num_kv_heads, config.head_dim)) for _ in range(2))
        return lambda: (op(qkv, *rotation, row, keys, values), keys, values)

    # A fused kernel rotates in place: each side has its own copy, and rotations keep the size of the numbers.
    chosen, twin = case(rope_store.rope_store, qkv.clone()), sizes.twin(case(rope_store.reference, qkv.clone()))
    return [_Case("rope_store", chosen, _num_bytes(qkv, qkv, *rotation), reference=twin)]


def _row_attention(sizes: _Sizes) -> list[_Case]:
    config, num_keys = sizes.config, sizes.num_positions
    full, rest = divmod(sizes.num_rows, num_keys)
    counts = [num_keys] * full + [rest] * (rest > 0)
    queries = sizes.random(sizes.num_rows, config.num_heads, config.head_dim)
    keys, values = (sizes.random(len(counts) * num_keys, config.num_kv_heads, config.head_dim) for _ in range(2))
    spans = Spans.of([RowSpan(i * num_keys, num, num_keys) for i, num in enumerate(counts)], sizes.model.device)
    twin = sizes.twin(partial(row_attention.reference, queries, keys, values, spans))
    return [
        _Case(
            "row_attention",
            partial(row_attention.row_attention, queries, keys, values, spans),
            _num_bytes(queries, keys, values, queries),
            4 * sizes.num_rows * num_keys * config.query_size,
            twin if queries.dtype != torch.float32 else None,
        )
    ]


def _head_logits(sizes: _Sizes) -> list[_Case]:
    head, hidden = sizes.model.lm_head, sizes.hidden()
    num_bytes = _num_bytes(head.weight, hidden) + 4 * sizes.num_rows * head.vocab_size
    flops = 2 * sizes.num_rows * head.weight.numel()
    return [_Case("head_logits", partial(head_logits, hidden, head), num_bytes, flops)]


def _token_stats(sizes: _Sizes) -> list[_Case]:
    """Greedy choice, as it is without a temperature."""
    logits = sizes.random(sizes.num_rows, sizes.model.lm_head.vocab_size)
    zeros = torch.zeros(sizes.num_rows, dtype=torch.int64, device=sizes.model.device)

    def case(op: Callable[..., TokenStats]) -> Callable[[], _Outputs]:
        mask_token_id = sizes.config.mask_token_id
        return lambda: op(
            logits, mask_token_id=mask_token_id, allow_mask=zeros.bool(), temperature=zeros.double(), key=zeros,
            may_sample=False,
        )[1:]  # fmt: skip

    twin = sizes.twin(case(token_stats.reference))
    return [_Case("token_stats", case(token_stats.token_stats), _num_bytes(logits), reference=twin)]


def _kl_from_logits(sizes: _Sizes) -> list[_Case]:
    logits = [sizes.random(sizes.num_rows, sizes.model.lm_head.vocab_size).float() for _ in range(2)]
    twin = sizes.twin(partial(step_kl.reference, *logits))
    return [_Case("kl_from_logits", partial(step_kl.kl_from_logits, *logits), _num_bytes(*logits), reference=twin)]


def _step_kl(sizes: _Sizes) -> list[_Case]:
    head, hidden, previous = sizes.model.lm_head, sizes.hidden(), sizes.hidden()
    num_bytes, flops = _num_bytes(head.weight, hidden, previous), 4 * sizes.num_rows * head.weight.numel()
    return [_Case("step_kl", partial(step_kl.step_kl, hidden, previous, head), num_bytes, flops)]


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
