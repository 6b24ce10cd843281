"""Ask a checkpoint held-out problems of every type, without locks: the quick check at the end of a leg.

    python -m training.evaluate --model DIR [--per-type 60] [--tasks add,sub]

`surelock eval tasks` is the full evaluation.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch

from surelock import LLM, SamplingParams
from surelock.config import EngineConfig
from surelock.measure.tasks import check, make_problem
from surelock.text.prompts import Prompt
from training.canvas import BLOCK_LENGTH
from training.problems import TASK_WEIGHTS


def evaluate(model: Path, tasks: list[str], per_type: int, block_length: int | None) -> dict[str, list[int]]:
    """Right answers of each type at levels 1, 2, 3; canvases fitted to the answer."""
    llm = LLM(str(model), engine_config=EngineConfig(max_batch_size=512, max_rows=65_536, cuda_graphs=False))
    rng = random.Random(7)
    problems = [make_problem(rng, task, _level(task, i), "test") for task in tasks for i in range(per_type)]
    params = [SamplingParams(max_tokens=_fitted(llm, p.answer), block_length=block_length, lock=None) for p in problems]
    prompts: list[Prompt] = [{"prompt_token_ids": llm.encode_chat([_turn(p.question)])} for p in problems]
    right = {task: [0, 0, 0] for task in tasks}
    for problem, output in zip(problems, llm.generate(prompts, params), strict=True):
        right[problem.task][problem.level - 1] += check(problem, output.text).final
    return right


def _level(task: str, index: int) -> int:
    """Levels 1 to 3 in turn; the few problems logic has at level 1 are all in the training split."""
    return 2 + index % 2 if task == "logic" else 1 + index % 3


def _fitted(llm: LLM, answer: str) -> int:
    """Tokens of the answer and its end, rounded up to whole blocks."""
    assert llm.tokenizer is not None
    return -(-(len(llm.tokenizer.encode(answer, bos=False)) + 1) // BLOCK_LENGTH) * BLOCK_LENGTH


def _turn(question: str) -> dict[str, str]:
    return {"role": "user", "content": question}


def main() -> None:
    """Print and save accuracy by type and level."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--per-type", type=int, default=60)
    parser.add_argument("--tasks", default=",".join(TASK_WEIGHTS))
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    found = {}
    for name, block_length in (("full", None), ("block 32", BLOCK_LENGTH)):
        right = evaluate(arguments.model, arguments.tasks.split(","), arguments.per_type, block_length)
        found[name] = right
        share = {task: round(100 * sum(levels) / arguments.per_type) for task, levels in right.items()}
        print(name, " ".join(f"{task} {percent}" for task, percent in share.items()), flush=True)
    (arguments.model / "quick_tasks.json").write_text(json.dumps({"per_type": arguments.per_type, "right": found}))


if __name__ == "__main__":
    main()
