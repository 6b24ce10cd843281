"""Locked against unlocked decoding of text prompts by the embedded model, and the engine against the oracle.

Both engines of a setting advance one step in turn in one process, so noise of the machine falls on both. Wall-clock is
the sum of a side's own steps. `exact` and `full` are FLOPs ratios (surelock.flops), r the mean share of active rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from surelock import LLM, LockParams, RequestOutput, SamplingParams
from surelock.decoding.oracle import oracle_decode
from surelock.results.environment import environment

# (prompts, tokens of each prompt, tokens to generate)
SETTINGS = [(8, 64, 256), (1, 64, 256), (8, 64, 64), (1, 16, 64)]


def main() -> None:
    """Run every setting and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="result file (JSON)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, to see that it runs")
    parser.add_argument("--dtype", default="float32", help="the oracle is compared in float32 only")
    arguments = parser.parse_args()
    llm = LLM(device="cpu", dtype=arguments.dtype)
    llm.generate("warm up", SamplingParams(max_tokens=4))
    rows = [compare(llm, *setting, quick=arguments.quick) for setting in SETTINGS]
    result = {
        "command": " ".join(["python", "benchmarks/locked_vs_unlocked.py", *sys.argv[1:]]),
        "environment": environment(),
        "model": llm.name,
        "dtype": str(llm.dtype),
        "lock": str(LockParams.permanent()),
        "locked_vs_unlocked": rows,
        "engine_vs_oracle": against_oracle(llm, quick=arguments.quick) if arguments.dtype == "float32" else None,
        "peak_resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def prompts(llm: LLM, num: int, num_tokens: int) -> list[dict[str, list[int]]]:
    """The first num_tokens tokens of each passage."""
    assert llm.tokenizer is not None
    texts = files("surelock.bench").joinpath("prompts.txt").read_text().splitlines()[:num]
    encoded = [llm.tokenizer.encode(text)[:num_tokens] for text in texts]
    assert all(len(ids) == num_tokens for ids in encoded)
    return [{"prompt_token_ids": ids} for ids in encoded]


def compare(llm: LLM, num: int, num_prompt: int, num_tokens: int, *, quick: bool) -> dict[str, Any]:
    """One setting, S = N_gen unless quick."""
    steps = num_tokens // 10 if quick else num_tokens
    params = SamplingParams(max_tokens=num_tokens, steps=steps, lock=LockParams.permanent())
    canvases = prompts(llm, num, num_prompt)
    sides = {"unlocked": llm.stream(canvases, replace(params, lock=None)), "locked": llm.stream(canvases, params)}
    seconds, outputs = dict.fromkeys(sides, 0.0), {name: [] for name in sides}
    for step in range(1, steps + 1):
        # Whoever goes first alternates, so neither always finds the other's data in the caches.
        for name in list(sides)[:: 1 if step % 2 else -1]:
            start = time.perf_counter()
            updates = [next(sides[name]) for _ in range(num)]
            seconds[name] += time.perf_counter() - start
            outputs[name] += [update.output for update in updates if update.output]
    return {
        "num_prompts": num,
        "prompt_tokens": num_prompt,
        "max_tokens": num_tokens,
        "steps": steps,
        "unlocked_seconds": seconds["unlocked"],
        "locked_seconds": seconds["locked"],
        "time_ratio": seconds["locked"] / seconds["unlocked"],
        **summary(outputs["unlocked"], outputs["locked"]),
    }


def summary(unlocked: list[RequestOutput], locked: list[RequestOutput]) -> dict[str, float]:
    """FLOPs ratios of the locked side and how many tokens stayed the same."""

    def total(mode: str, side: str) -> float:
        return sum(output.stats.flops[mode][side] for output in locked)

    pairs = [
        (a, b)
        for one, other in zip(unlocked, locked, strict=True)
        for a, b in zip(one.canvas_token_ids, other.canvas_token_ids, strict=True)
    ]
    num_given = sum(output.prompt_tokens for output in locked)
    num_equal = sum(a == b for a, b in pairs) - num_given
    return {
        "active_ratio": sum(output.stats.active_ratio for output in locked) / len(locked),
        "exact_flops_ratio": total("exact", "locked") / total("exact", "base"),
        "full_flops_ratio": total("full", "locked") / total("full", "base"),
        "token_agreement": num_equal / (len(pairs) - num_given),
    }


def against_oracle(llm: LLM, *, quick: bool) -> dict[str, float]:
    """Seconds for one unlocked prompt of 64 tokens and 64 to generate, best of three, sides in turn."""
    steps = 6 if quick else 64
    params = SamplingParams(max_tokens=64, steps=steps, lock=None)
    canvas = prompts(llm, 1, 64)[0]
    best = {"oracle": float("inf"), "engine": float("inf")}
    for _ in range(3):
        start = time.perf_counter()
        ids, mask = canvas["prompt_token_ids"], llm.config.mask_token_id
        oracle = oracle_decode(llm.transformer, ids, params, mask_token_id=mask)
        middle = time.perf_counter()
        output = llm.generate(canvas, params)[0]
        end = time.perf_counter()
        assert output.canvas_token_ids == oracle.tokens
        best = {"oracle": min(best["oracle"], middle - start), "engine": min(best["engine"], end - middle)}
    return {**{f"{name}_seconds": value for name, value in best.items()}, "ratio": best["engine"] / best["oracle"]}


if __name__ == "__main__":
    main()
