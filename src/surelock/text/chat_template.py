"""Conversations become text: the checks of messages, and the chat template of a model folder.

A chat template is jinja2 that strangers wrote, so it is rendered in a sandbox that counts its work.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import jinja2

from surelock.errors import PromptError, TokenizerError, shown, shown_error
from surelock.text import template_sandbox
from surelock.text.template_work import MAX_WORK

ROLES: Final = ("system", "user", "assistant", "tool")
MAX_MESSAGES: Final = 1000
# Characters a chat template may write besides the contents.
MAX_TEMPLATE_OUTPUT: Final = 1 << 20
# What a message allows a template besides: published ones take 80 to 190, and a few looks at each character.
WORK_PER_MESSAGE: Final = 1 << 10
WORK_PER_CHARACTER: Final = 16
TEMPLATE_FILE: Final = "chat_template.jinja"


def check_text(text: object, name: str) -> None:
    """Check that `text` is text that can be encoded; PromptError calls it `name`."""
    if not isinstance(text, str):
        raise PromptError(f"{name} is {shown(text)}; it must be a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{name} has a lone surrogate, {text[error.start]!r}, at character {error.start}; it must be valid Unicode"
        ) from error


def check_messages(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """A copy of the conversation.

    Raises:
        PromptError: there is no message or more than 1,000, or one has other keys than `role` and `content`, a role
            that is none of `ROLES`, or a content that is not valid text.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise PromptError("messages must be a list of at least one {'role': ..., 'content': ...}")
    if len(messages) > MAX_MESSAGES:
        raise PromptError(f"there are {len(messages)} messages; the limit is {MAX_MESSAGES}: drop the oldest")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _check_message(message: object, name: str) -> None:
    if not isinstance(message, Mapping):
        raise PromptError(f"{name} is {shown(message)}; it must be {{'role': ..., 'content': ...}}")
    if set(message) != {"role", "content"}:
        raise PromptError(f"{name} has the keys {shown(list(message))}; it must have exactly 'role' and 'content'")
    if message["role"] not in ROLES:
        raise PromptError(f"{name}.role is {shown(message['role'])}; it must be one of {', '.join(ROLES)}")
    check_text(message["content"], f"{name}.content")


def interleave(parts: Sequence[str], contents: Sequence[str]) -> str:
    """Join n + 1 parts with the n contents between them."""
    return "".join(text for pair in zip(parts, [*contents, ""], strict=True) for text in pair)


class ChatTemplate:
    """The chat template of one model folder. Threads may share it.

    Attributes:
        source: jinja2 in the dialect of transformers (its filters, functions and tags).
    """

    def __init__(self, source: str, *, special_tokens: Mapping[str, str], folder: Path) -> None:
        """
        Args:
            special_tokens: variables of the template, such as `bos_token`.
            folder: the model folder, for errors to name.
        """
        self.source = source
        self._special_tokens = special_tokens
        self._folder = folder

    def render(self, messages: Sequence[Mapping[str, str]]) -> tuple[list[str], list[str]]:
        """Render a checked conversation, up to where the assistant's answer begins.

        Returns:
            what the template wrote, n + 1 parts, and the n non-empty contents between them without surrounding space:
            a template may reorder contents and trim them, and nothing else.

        Raises:
            TokenizerError: the template fails, does what is not allowed, takes too much work, or rewrites contents.
        """
        # A mark stands for each content, and the text is cut at the marks. Empty contents stay empty: they need no
        # protection, and templates ask for them.
        nonce = secrets.token_hex(16)
        marks = {f"{nonce}m{index}e": index for index, message in enumerate(messages) if message["content"]}
        marked = [dict(message) for message in messages]
        for mark, index in marks.items():
            marked[index]["content"] = _in_the_space_of(messages[index]["content"], mark)
        rest = self._write(marked)
        for mark, index in marks.items():
            if rest.count(mark) != 1:
                raise TokenizerError(
                    f"{self._folder}: the chat template changes the content of messages[{index}], or writes it "
                    f"{rest.count(mark)} times; encode the conversation yourself and pass prompt_token_ids"
                )
        parts, contents = [], []
        for mark in sorted(marks, key=rest.index):
            part, _, rest = rest.partition(mark)
            parts.append(part)
            contents.append(messages[marks[mark]]["content"].strip())
        parts.append(rest)
        if interleave(parts, contents) != self._write(messages):
            raise TokenizerError(
                f"{self._folder}: the chat template changes the content of a message by more than trimming it; "
                "encode the conversation yourself and pass prompt_token_ids"
            )
        return parts, contents

    def written_after_answer(self) -> str:
        """What the template writes after what the assistant said; empty if it fails, which `render` reports."""
        mark = secrets.token_hex(16)
        exchange = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": mark}]
        try:
            return self._write(exchange, add_generation_prompt=False).partition(mark)[2]
        except TokenizerError:
            return ""

    def _write(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        num_characters = sum(len(message["content"]) for message in messages)
        work = MAX_WORK + WORK_PER_MESSAGE * len(messages) + WORK_PER_CHARACTER * num_characters
        variables = {
            **self._special_tokens,
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return template_sandbox.render(
                self._compiled,
                variables,
                work=work,
                max_characters=MAX_TEMPLATE_OUTPUT + num_characters,
            )
        # A template can fail in any way Python can.
        except Exception as error:
            raise TokenizerError(
                f"{self._folder}: the chat template failed: {shown_error(error)}; encode the conversation yourself and "
                f"pass prompt_token_ids, or put another template into {TEMPLATE_FILE}"
            ) from error

    @functools.cached_property
    def _compiled(self) -> jinja2.Template:
        return template_sandbox.Environment().from_string(self.source)


def _in_the_space_of(content: str, mark: str) -> str:
    """`mark` with the white space around `content`, so that a template that trims contents trims that."""
    start = len(content) - len(content.lstrip())
    return content[:start] + mark + content[start + len(content.strip()) :]
