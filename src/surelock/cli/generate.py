"""`surelock generate`: text after each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from surelock.cli.files import check_distinct
from surelock.cli.loading import load_llm
from surelock.cli.options import DecodingOptions, JsonFlag, MaxTokens, option, with_options
from surelock.cli.prompts import Prompt, read_prompts
from surelock.cli.watch import recording, run_watched
from surelock.errors import PromptError

PromptTexts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TEXT]...", help="Prompts; `-` is the whole of standard input.", show_default=False),
]
PromptFile = Annotated[
    Path | None,
    option(
        "One prompt per line; in a .jsonl file an object with prompt, prompt_token_ids or canvas_token_ids "
        "(null where masked).",
        None,
        "--file",
        "-f",
    ),
]
TracePath = Annotated[Path | None, option("Write one JSON line per step.", "Output", "--trace")]
LockMapPath = Annotated[
    Path | None,
    option(
        "Draw which positions each step computed, as .png or .svg; several prompts give NAME-0, NAME-1, ...",
        "Output",
        "--lock-map",
    ),
]


@with_options()
def generate(
    decoding: DecodingOptions,
    texts: PromptTexts = None,
    file: PromptFile = None,
    chat: Annotated[bool, option("Wrap each prompt as one user turn of the chat template.")] = False,
    max_tokens: MaxTokens = 128,
    json: JsonFlag = False,
    trace: TracePath = None,
    lock_map: LockMapPath = None,
) -> None:
    """Continue each prompt.

    On a terminal you watch the canvas settle; otherwise stdout gets the texts only.
    """
    params = decoding.params(max_tokens)
    prompts = read_prompts(texts or [], file)
    turns = _user_turns(prompts) if chat else []
    check_distinct(file=file, trace=trace, lock_map=lock_map)
    with recording(trace, lock_map) as recorders:
        llm = load_llm(decoding.model)
        if chat:
            prompts = [{"prompt_token_ids": llm.encode_chat(messages)} for messages in turns]
        run_watched(
            lambda on_step: llm.generate(prompts, params, on_step=on_step),
            llm.tokenizer,
            num_prompts=len(prompts),
            as_json=json,
            show_prompt=not chat,
            recorders=recorders,
        )


def _user_turns(prompts: Sequence[Prompt]) -> list[list[dict[str, str]]]:
    turns = []
    for number, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str):
            form = next(iter(prompt))
            raise PromptError(f"prompt {number} gives {form}, which --chat cannot wrap; give text or drop --chat")
        turns.append([{"role": "user", "content": prompt}])
    return turns
