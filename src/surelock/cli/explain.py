"""`surelock explain`: which premature lock did what."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from surelock.cli.files import check_distinct, check_writable
from surelock.cli.generate import PromptFile, PromptTexts
from surelock.cli.measuring import load_measured, note_written
from surelock.cli.options import (
    BlockLength,
    JsonFlag,
    LockOptions,
    MaxTokens,
    ModelOptions,
    Steps,
    option,
    with_options,
)
from surelock.cli.prompts import read_prompts
from surelock.cli.terminal import standard_output, status
from surelock.errors import ParameterError
from surelock.params import LockParams, SamplingParams
from surelock.results.whole_file import write_whole

if TYPE_CHECKING:
    from surelock.llm import LLM
    from surelock.measure.explain import Case

# Texts, and as many tasks, among which the worst are looked for.
_NUM_BUILT_IN: Final = 16
_NUM_PROMPT_TOKENS: Final = 64
EXACT_DTYPE: Final = "float32"


@with_options()
def explain(
    model: ModelOptions,
    lock: LockOptions,
    texts: PromptTexts = None,
    file: PromptFile = None,
    max_tokens: MaxTokens = 64,
    steps: Steps = None,
    block_length: BlockLength = None,
    worst: Annotated[int, option("Explain so many prompts, those whose runs differ most.", min=1, max=1000)] = 5,
    load: Annotated[Path | None, option("Show what --json has written before, and run nothing.")] = None,
    html: Annotated[Path | None, option("Also write one page for a browser.", "Output")] = None,
    json: JsonFlag = False,
) -> None:
    """Show a run with locks beside one without, the tokens that locks changed, and the locks that are to blame.

    A lock is guilty of a token if the token comes back when that lock alone is computed afresh in the step that wrote
    it; where none is, the smallest group found that is. In float32 unless --dtype says otherwise.

    Without TEXT or --file the worst cases among held-out texts and tasks of the package are shown.
    """
    check_distinct(file=file, load=load, html=html)
    rule = lock.lock_params(model)
    if rule is None:
        raise ParameterError("--no-lock leaves nothing to explain; leave it out")
    if html is not None:
        check_writable("--html", html)
    if load is not None:
        cases = _loaded(load, texts, file)
    else:
        llm = load_measured(replace(model, dtype=model.dtype or EXACT_DTYPE))
        params = SamplingParams(max_tokens=max_tokens, steps=steps, block_length=block_length, lock=rule)
        prompts: list[Any] = read_prompts(texts or [], file) if texts or file else _built_in(llm)
        from surelock.measure.explain import explain as run_explain

        with status("starting") as show:
            cases = run_explain(llm, prompts, params, rule=rule_name(rule), worst=worst, progress=show)
    if html is not None:
        from surelock.measure.explain import page

        write_whole(html.resolve(), page(cases).encode())
        note_written([html])
    _print(cases, as_json=json)


def rule_name(rule: LockParams) -> str:
    """A name the rule has, or what is special about it."""
    rules = {"default": LockParams(), "permanent": LockParams.permanent(), "paper": LockParams.paper()}
    for name, known in rules.items():
        if rule == known:
            return name
        if rule == replace(known, kl_threshold=rule.kl_threshold):
            return f"{name}@{rule.kl_threshold:g}"
    special = [
        f"{field.name}={getattr(rule, field.name)}"
        for field in fields(rule)
        if getattr(rule, field.name) != getattr(LockParams(), field.name)
    ]
    return ", ".join(special)


def _built_in(llm: LLM) -> list[dict[str, Any]]:
    from surelock.measure.prompt_sets import task_canvases, text_canvases

    canvases = text_canvases(llm, _NUM_BUILT_IN, num_prompt_tokens=_NUM_PROMPT_TOKENS)
    if llm.tokenizer is not None and llm.tokenizer.has_chat_template:
        canvases += task_canvases(llm, _NUM_BUILT_IN, seed=0)
    return [{"canvas_token_ids": list(canvas)} for canvas in canvases]


def _loaded(path: Path, texts: list[str] | None, file: Path | None) -> list[Case]:
    if texts or file:
        raise ParameterError(f"{'TEXT' if texts else '--file'} contradicts --load, which runs nothing; leave one out")
    from surelock.measure.explain import read_cases

    try:
        content = path.read_bytes()
    except OSError as error:
        raise ParameterError(f"--load {path} cannot be read: {error.strerror}") from None
    return read_cases(content, f"--load {path}")


def _print(cases: list[Case], *, as_json: bool) -> None:
    if as_json:
        for case in cases:
            sys.stdout.write(case.to_json().decode() + "\n")
        return
    from surelock.cli.explain_view import PIPE_WIDTH, case_lines

    console = standard_output()
    width = console.width if console.is_terminal else PIPE_WIDTH
    for index, case in enumerate(cases):
        if index:
            console.print()
        for line in case_lines(case, width):
            console.print(line, soft_wrap=True)
