"""Prompts from arguments, standard input and files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from surelock.errors import PromptError

Prompt = str | dict[str, Any]

_FORMS: Final = ("prompt", "prompt_token_ids", "canvas_token_ids")
_STANDARD_INPUT: Final = "-"


def read_prompts(texts: Sequence[str], file: Path | None) -> list[Prompt]:
    """Prompts in the order given. `-` among the texts stands for the whole of standard input.

    A `.jsonl` file has one object per line with one of the keys `prompt`, `prompt_token_ids`, `canvas_token_ids` (null
    where masked); any other file has one prompt per line. Blank lines are skipped.

    Raises:
        PromptError: no prompt at all, or one that cannot be read; the message names the source and the line.
    """
    if file is None:
        if not texts:
            raise PromptError("no prompt: give TEXT, `-` to read standard input, or --file")
        if list(texts).count(_STANDARD_INPUT) > 1:
            raise PromptError("`-` is given twice; standard input is one prompt: use --file for several")
        return [read_standard_input() if text == _STANDARD_INPUT else checked_text(text, "TEXT") for text in texts]
    if texts:
        raise PromptError("both TEXT and --file are given; leave one of them out")
    parse = _parse_object if file.suffix == ".jsonl" else _parse_text
    # Only at line feeds: JSON strings and prompts may hold the other characters str.splitlines() splits at.
    lines = enumerate(_read_file(file).replace("\r\n", "\n").split("\n"), start=1)
    prompts = [parse(line, f"{file} line {number}") for number, line in lines if line.strip()]
    if not prompts:
        raise PromptError(f"{file} holds no prompt; write one per line")
    return prompts


def read_standard_input() -> str:
    """The whole of standard input as one text, without its last line break.

    Raises:
        PromptError: it is empty or not UTF-8.
    """
    # None where the descriptor is closed.
    content = sys.stdin.buffer.read() if sys.stdin else b""
    text = decode_utf8(content, "standard input").removesuffix("\n").removesuffix("\r")
    if not text:
        raise PromptError("standard input is empty; pipe a prompt into it")
    return text


def decode_utf8(content: bytes, source: str) -> str:
    """Text of the bytes, without a byte order mark.

    Raises:
        PromptError: they are not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise PromptError(
            f"{source} is not UTF-8: byte 0x{byte:02x} at offset {error.start}; convert it, for example with iconv"
        ) from None


def checked_text(text: str, source: str) -> str:
    """The text itself.

    Raises:
        PromptError: it holds bytes that were not UTF-8, which the interpreter hands over as lone surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(f"{source} {text!a} is not UTF-8; set the terminal to UTF-8 or use a file") from None
    return text


def _read_file(file: Path) -> str:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise PromptError(f"--file {file} does not exist; check the path, or use `-` for standard input") from None
    except OSError as error:
        raise PromptError(f"--file {file} cannot be read: {error.strerror}") from None
    return decode_utf8(content, str(file))


def _parse_text(line: str, source: str) -> Prompt:
    return line


def _parse_object(line: str, source: str) -> Prompt:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise PromptError(f"{source} is not JSON: {error}") from None
    forms = '{"prompt": "..."}, {"prompt_token_ids": [...]} or {"canvas_token_ids": [...]}'
    if not isinstance(row, dict) or len(row) != 1 or (form := next(iter(row))) not in _FORMS:
        raise PromptError(f"{source} must be an object with one key: {forms}")
    value = row[form]
    if form == "prompt":
        if not isinstance(value, str):
            raise PromptError(f"{source}: prompt must be a string")
        return value
    number = int | None if form == "canvas_token_ids" else int
    # JSON true would pass as the integer 1.
    if not isinstance(value, list) or any(isinstance(id_, bool) or not isinstance(id_, number) for id_ in value):
        masked = ", null where masked" if form == "canvas_token_ids" else ""
        raise PromptError(f"{source}: {form} must be a list of token ids{masked}")
    return {form: value}
