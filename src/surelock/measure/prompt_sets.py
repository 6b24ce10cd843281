"""Prompts that evaluations run on, as canvases: held-out text, a file of one's own, or problems as chat turns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from surelock.errors import PromptError, TokenizerError
from surelock.llm import LLM
from surelock.measure.instrumented import CanvasIds
from surelock.measure.task_eval import evaluation_problems
from surelock.measure.tasks import TASKS
from surelock.measure.text import load_text


def text_canvases(llm: LLM, num: int, *, num_prompt_tokens: int, path: Path | None = None) -> list[CanvasIds]:
    """The first num prompts of the held-out text, each cut to num_prompt_tokens, or of a file (see `load_text`).

    Raises:
        PromptError: there is no prompt in the file.
        TokenizerError: the model has no tokenizer.
    """
    if llm.tokenizer is None:
        raise TokenizerError(f"{llm.name} has no tokenizer, so it takes no text; choose another model")
    prompts = load_text(
        path=path, tokenizer=llm.tokenizer, num_prompts=num, num_prompt_tokens=num_prompt_tokens,
        num_continuation_tokens=0,
    )  # fmt: skip
    return [prompt.token_ids for prompt in prompts]


def task_canvases(llm: LLM, num: int, *, seed: int) -> list[CanvasIds]:
    """num different test problems as chat turns, the tasks in turn; fewer if there are no more.

    Raises:
        TokenizerError: the model has no chat template.
    """
    problems = evaluation_problems(tuple(TASKS), num_per_task=-(-num // len(TASKS)), seed=seed)
    by_task = [[problem for problem in problems if problem.task == task] for task in TASKS]
    in_turn = [problem for each in zip_longest(*by_task) for problem in each if problem is not None]
    return [llm.encode_chat([{"role": "user", "content": problem.question}]) for problem in in_turn[:num]]


def check_room(canvases: Sequence[CanvasIds], max_tokens: int, limit: int) -> None:
    """Refuse prompts that leave no room for max_tokens.

    Raises:
        PromptError: one does not.
    """
    longest = max(map(len, canvases))
    if longest + max_tokens > limit:
        raise PromptError(
            f"the longest prompt has {longest} positions and max_tokens is {max_tokens}; the model's limit is {limit}: "
            "lower one of them"
        )
