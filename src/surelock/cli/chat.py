"""`surelock chat`: a conversation, turn by turn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

import typer

from surelock.cli.loading import load_llm
from surelock.cli.options import DecodingOptions, JsonFlag, MaxTokens, option, with_options
from surelock.cli.prompts import checked_text, decode_utf8
from surelock.cli.terminal import note, report_error
from surelock.cli.watch import run_watched
from surelock.errors import PromptError, SureLockError, TokenizerError
from surelock.params import SamplingParams

if TYPE_CHECKING:
    from surelock.llm import LLM

Message = dict[str, str]

COMMANDS: Final = "/reset forgets the conversation, /exit or Ctrl-D ends"


@with_options()
def chat(
    decoding: DecodingOptions,
    system: Annotated[str | None, option("System message that opens the conversation.", None)] = None,
    max_tokens: MaxTokens = 128,
    json: JsonFlag = False,
) -> None:
    """Talk to the model.

    On a terminal: /reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops a reply.

    Piped input is read line by line, one message each.
    """
    params = decoding.params(max_tokens)
    llm = load_llm(decoding.model)
    if llm.tokenizer is None or not llm.tokenizer.has_chat_template:
        raise TokenizerError(f"{llm.name} has no chat template; use `surelock generate` or a chat model")
    conversation = Conversation(llm, params, system=checked_text(system, "--system") if system else None, as_json=json)
    is_interactive = is_conversing()
    if is_interactive:
        note(COMMANDS)
    for line in _typed_lines() if is_interactive else _piped_lines():
        if line == "/exit":
            return
        if line == "/reset":
            conversation.reset()
            note("conversation forgotten")
        elif line.startswith("/") and line[1:].isalpha():
            note(f"no command {line}: {COMMANDS}")
        elif is_interactive:
            _reply_or_explain(conversation, line)
        elif line:
            conversation.reply(line)


def is_conversing() -> bool:
    """Whether a person types and reads."""
    return sys.stdin.isatty() and sys.stdout.isatty()


class Conversation:
    """The messages so far; each `reply` is printed as it settles."""

    def __init__(self, llm: LLM, params: SamplingParams, *, system: str | None, as_json: bool) -> None:
        self._llm = llm
        self._params = params
        self._as_json = as_json
        self._opening: list[Message] = [{"role": "system", "content": system}] if system else []
        self._turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """Opening and turns, as the template gets them."""
        return [*self._opening, *self._turns]

    def reset(self) -> None:
        """Forget everything but the system message."""
        self._turns.clear()

    def reply(self, text: str) -> None:
        """Answer one user message. A failed or interrupted turn is not remembered.

        Raises:
            PromptError: the message does not fit the model's context even alone.
        """
        turns = self._trimmed([*self._turns, {"role": "user", "content": text}])
        messages = [*self._opening, *turns]
        (output,) = run_watched(
            lambda on_step: [self._llm.chat(messages, self._params, on_step=on_step)],
            self._llm.tokenizer,
            num_prompts=1,
            as_json=self._as_json,
            show_prompt=False,
        )
        self._turns = [*turns, {"role": "assistant", "content": output.text}]

    def _trimmed(self, turns: list[Message]) -> list[Message]:
        """The turns without as many of the oldest exchanges as the context cannot hold."""
        limit = self._llm.config.max_sequence_length - self._params.max_tokens
        num_dropped = 0
        while (size := len(self._llm.encode_chat([*self._opening, *turns]))) > limit:
            if len(turns) == 1:
                raise PromptError(
                    f"the message has {size} tokens and max_tokens is {self._params.max_tokens}, more than the context "
                    f"of {self._llm.config.max_sequence_length}; shorten it or lower --max-tokens"
                )
            turns = turns[2:]
            num_dropped += 1
        if num_dropped:
            exchanges = "exchange" if num_dropped == 1 else f"{num_dropped} exchanges"
            note(f"the context is full: the oldest {exchanges} left out")
        return turns


def _reply_or_explain(conversation: Conversation, line: str) -> None:
    """Answer; a mistake or Ctrl-C costs the turn, not the conversation."""
    if not line:
        return
    try:
        conversation.reply(line)
    except KeyboardInterrupt:
        note("stopped; this turn is forgotten")
    except SureLockError as error:
        report_error(str(error))


def _typed_lines() -> Iterator[str]:
    # Imported for its effect, line editing and history in input(); not every platform has it.
    with suppress(ImportError):
        import readline  # noqa: F401

    while True:
        try:
            yield checked_text(input("> ").strip(), "the message")
        except EOFError:
            typer.echo(err=True)
            return


def _piped_lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, start=1):
        yield decode_utf8(line, f"standard input line {number}").strip()
