"""Eight requests together against the same eight one at a time, on a CPU, with the embedded model and default locks.

For each step of the eight together, the side that runs one at a time makes eight, so both take as long a share of the
same minutes and noise of the machine falls on both. Seconds are the sum of a side's own steps: wall-clock, or with
--cpu-time those of the processor in one thread, which other processes do not lengthen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from locked_vs_unlocked import prompts

from surelock import LLM, EngineConfig, LockParams, RequestOutput, SamplingParams
from surelock.output import StepUpdate
from surelock.results.environment import environment

NUM_REQUESTS = 8
NUM_PROMPT = 64


def main() -> None:
    """Run every setting and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="result file (JSON)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--max-tokens", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--threads", type=int, help="default: as torch chooses")
    parser.add_argument("--cpu-time", action="store_true", help="time of the processor, with --threads 1")
    arguments = parser.parse_args()
    if arguments.cpu_time and arguments.threads != 1:
        parser.error("--cpu-time counts one thread: add --threads 1")
    clock = time.thread_time if arguments.cpu_time else time.perf_counter
    config = EngineConfig(num_threads=arguments.threads)
    load_before, rows = os.getloadavg(), []
    for dtype in arguments.dtypes:
        llm = LLM(device="cpu", dtype=dtype, engine_config=config)
        llm.generate("warm up", SamplingParams(max_tokens=4))
        for num_tokens in arguments.max_tokens:
            rows.append(compare(llm, num_tokens, clock))
            print(rows[-1], file=sys.stderr, flush=True)
    result = {
        "command": " ".join(["python", "benchmarks/cpu_concurrency.py", *sys.argv[1:]]),
        "environment": environment(),
        "load_average_before_and_after": [load_before, os.getloadavg()],
        "seconds_of": "one thread of the processor" if arguments.cpu_time else "wall-clock",
        "model": llm.name,
        "lock": str(LockParams()),
        "num_requests": NUM_REQUESTS,
        "prompt_tokens": NUM_PROMPT,
        "settings": rows,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def compare(llm: LLM, num_tokens: int, clock: Callable[[], float]) -> dict[str, Any]:
    """One setting, S = N_gen."""
    params = SamplingParams(max_tokens=num_tokens, lock=LockParams())
    canvases = prompts(llm, NUM_REQUESTS, NUM_PROMPT)
    sides = {
        "together": llm.stream(canvases, params),
        "one_at_a_time": (update for canvas in canvases for update in llm.stream(canvas, params)),
    }
    seconds: dict[str, float] = dict.fromkeys(sides, 0.0)
    outputs: dict[str, list[RequestOutput]] = {name: [] for name in sides}
    for step in range(num_tokens):
        # Whoever goes first alternates, so neither always finds the other's data in the caches.
        for name in list(sides)[:: 1 if step % 2 else -1]:
            start = clock()
            updates = _take(sides[name], NUM_REQUESTS)
            seconds[name] += clock() - start
            outputs[name] += [update.output for update in updates if update.output]
    num_generated = NUM_REQUESTS * num_tokens
    pairs = zip(outputs["together"], outputs["one_at_a_time"], strict=True)
    return {
        "dtype": str(llm.dtype).removeprefix("torch."),
        "max_tokens": num_tokens,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        **{f"{name}_tokens_per_second": num_generated / value for name, value in seconds.items()},
        "throughput_gain": seconds["one_at_a_time"] / seconds["together"],
        "active_ratio": sum(output.stats.active_ratio for output in outputs["together"]) / NUM_REQUESTS,
        "num_same_outputs": sum(a.canvas_token_ids == b.canvas_token_ids for a, b in pairs),
    }


def _take(updates: Iterator[StepUpdate], num: int) -> list[StepUpdate]:
    return [next(updates) for _ in range(num)]


if __name__ == "__main__":
    main()
