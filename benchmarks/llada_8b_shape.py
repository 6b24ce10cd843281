"""Step times on the shape of LLaDA-8B with random bfloat16 weights, on a CUDA device.

Random weights make confidence and divergence meaningless, so locks follow a script: the active rows of a request in
step t are P [t <= 2] + (N_gen - t + 1) + min(t - 1, 8), close to what the default rule leaves on trained weights. The
scripted rule still measures its candidates' divergence, so that cost is in the times. One token a step, prompts of 64
tokens, no padding. A step's time is wall-clock until the device is done. Unlocked steps are timed before and after the
locked run of the same setting.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from environment import environment
from torch import Tensor

from surelock import LockParams, SamplingParams
from surelock.config import EngineConfig
from surelock.decoding.canvas import Mask
from surelock.decoding.protocols import LockDecision, LockNumbers, LockView, Scores
from surelock.decoding.slotwise import take_top
from surelock.engine.engine import Engine
from surelock.engine.runner import Runner
from surelock.models.config import ModelConfig
from surelock.models.transformer import Transformer

PROMPT = 64
# (requests, tokens to generate)
SETTINGS = [(1, 64), (1, 256), (1, 1024), (4, 256), (8, 256), (8, 1024)]
NUM_UNLOCKED = 32


@dataclass(frozen=True, slots=True)
class ScriptedLock:
    """Locks the leftmost candidates until the next step has as many active rows as the script says."""

    active_rows: Tensor
    needs_scores: bool = True

    def evaluate(self, view: LockView, numbers: LockNumbers, measure: Callable[[Mask], Scores]) -> LockDecision:
        """See `LockingRule.evaluate`."""
        measure(view.candidates)
        surplus = view.rows.sum(1) - self.active_rows[view.step]
        leftmost = -torch.arange(view.rows.shape[1], device=view.rows.device).expand_as(view.rows).float()
        return LockDecision(take_top(leftmost, view.candidates, surplus), torch.zeros_like(view.step))


def main() -> None:
    """Run every setting and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="result file (JSON)")
    parser.add_argument("--max-tokens", type=int, default=1024, help="leave out settings that generate more")
    arguments = parser.parse_args()
    model = random_model()
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/llada_8b_shape.py", *sys.argv[1:]]),
        "environment": environment(),
        "weights": "random bfloat16, LLaDA-8B shape",
        "lock": "scripted: P [t <= 2] + (N_gen - t + 1) + min(t - 1, 8) active rows in step t",
        **limits(),
        "settings": [],
    }
    for num, num_tokens in SETTINGS:
        if num_tokens <= arguments.max_tokens:
            result["settings"].append(compare(model, num, num_tokens))
            print(json.dumps({k: v for k, v in result["settings"][-1].items() if k != "curve"}), flush=True)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def random_model() -> Transformer:
    """8.0 billion random weights."""
    config = ModelConfig(
        family="llada", vocab_size=126464, embedding_size=126464, hidden_size=4096, intermediate_size=12288,
        num_layers=32, num_heads=32, num_kv_heads=32, head_dim=128, max_sequence_length=4096, norm_eps=1e-5,
        rope_theta=500_000.0, mask_token_id=126336, eos_token_ids=(126081,),
    )  # fmt: skip
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to(torch.bfloat16).to_empty(device="cuda").requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.02) if parameter.dim() > 1 else parameter.fill_(1)
    return model


def limits() -> dict[str, float]:
    """What the card does in this run: a large square bfloat16 product, and a copy."""
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    flops = 2 * 8192**3 / seconds(lambda: square @ square)
    source = torch.empty(1 << 30, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    # Each element of two bytes is read and written.
    copied = 4 * source.numel() / seconds(lambda: target.copy_(source))
    return {"matmul_tflops": flops / 1e12, "copy_tb_per_s": copied / 1e12}


def seconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Mean seconds of a device operation."""
    run()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / repeats


def compare(model: Transformer, num: int, num_tokens: int) -> dict[str, Any]:
    """One setting: unlocked steps, the whole locked run, unlocked steps again."""
    before = unlocked_ms(model, num, num_tokens)
    eager = unlocked_ms(model, num, num_tokens, cuda_graphs=False)
    locked = locked_run(model, num, num_tokens)
    after = unlocked_ms(model, num, num_tokens)
    unlocked = statistics.median(before + after)
    times = [ms for _, ms in locked]
    rows = [count for count, _ in locked]
    num_positions = num * (PROMPT + num_tokens)
    return {
        "requests": num,
        "max_tokens": num_tokens,
        "unlocked_ms_per_step": unlocked,
        "unlocked_eager_ms_per_step": statistics.median(eager),
        "locked_mean_ms_per_step": statistics.fmean(times),
        "speed_up": unlocked / statistics.fmean(times),
        "active_ratio": statistics.fmean(rows) / num_positions,
        "locked_last_steps_ms": statistics.median(times[-8:]),
        # Medians of groups of neighbouring steps: rows and milliseconds.
        "curve": [
            [statistics.median(rows[i : i + 8]), statistics.median(times[i : i + 8])] for i in range(0, num_tokens, 8)
        ],
    }


def engine_of(
    model: Transformer,
    num: int,
    num_tokens: int,
    *,
    locked: bool,
    cuda_graphs: bool = True,
    runner: Runner | None = None,
) -> Engine:
    """An engine with its requests queued."""
    script = [PROMPT * (t <= 2) + num_tokens - t + 1 + min(t - 1, 8) for t in range(1, num_tokens + 2)]
    rule = ScriptedLock(torch.tensor(script, device="cuda"))
    config = EngineConfig(max_batch_size=num, cuda_graphs=cuda_graphs)
    engine = Engine(model, config, runner=runner, locking=rule)
    params = SamplingParams(max_tokens=num_tokens, lock=LockParams() if locked else None)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num):
        engine.add_request(torch.randint(0, 120_000, (PROMPT,), generator=generator).tolist(), params)
    return engine


def unlocked_ms(model: Transformer, num: int, num_tokens: int, *, cuda_graphs: bool = True) -> list[float]:
    """Milliseconds of steady steps without locks, whose cost is constant."""
    engine = engine_of(model, num, num_tokens, locked=False, cuda_graphs=cuda_graphs)
    for _ in range(4):
        engine.step(watched=False)
    return [timed(engine)[1] for _ in range(NUM_UNLOCKED)]


def locked_run(model: Transformer, num: int, num_tokens: int) -> list[tuple[int, float]]:
    """(rows, milliseconds) of every step of a run with scripted locks."""
    # Slots are allocated in the first step and graphs belong to them, so a first engine lends its runner to the second.
    first = engine_of(model, num, num_tokens, locked=True)
    first.step(watched=False)
    runner = first._runner
    runner.warm_up(num * (PROMPT + num_tokens))
    for request in list(first._scheduler.running):
        first.abort_request(request)
    engine = engine_of(model, num, num_tokens, locked=True, runner=runner)
    found = []
    while engine.has_unfinished:
        found.append(timed(engine))
    return found


def timed(engine: Engine) -> tuple[int, float]:
    """One step: its rows, and its milliseconds until the device is done."""
    torch.cuda.synchronize()
    requests = list(engine._scheduler.running) or list(engine._scheduler.waiting)
    start = time.perf_counter()
    engine.step(watched=False)
    torch.cuda.synchronize()
    return sum(request.active_rows[-1] for request in requests), 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
