"""Prompts of a fixed number of tokens, from the held-out split or from a file of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from surelock.errors import PromptError
from surelock.measure.text.documents import Passage, in_turns
from surelock.text.tokenizer import Tokenizer

DEFAULT_PROMPT_TOKENS: Final = 64
DEFAULT_CONTINUATION_TOKENS: Final = 256

# English text has 3 to 5; more is read, so that enough tokens come out.
_CHARACTERS_PER_TOKEN: Final = 4
_MAX_CHARACTERS_PER_TOKEN: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPrompt:
    """The beginning of a text and what really follows.

    Attributes:
        prompt: text.
        continuation: what follows, up to the end of the passage; empty where the file did not have it.
        source, licence: of the text; the file's name and "" for a file of one's own.
        document: source and name of the document it was cut from; "" for a file of one's own.
        token_ids: of the prompt, by the tokenizer given to `load_text`, the begin-of-sequence id included if the
            tokenizer adds one; empty without a tokenizer.
    """

    prompt: str
    continuation: str
    source: str
    licence: str
    document: str = ""
    token_ids: tuple[int, ...] = ()


def load_text(
    split: str = "test",
    path: Path | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    num_prompts: int | None = None,
    num_prompt_tokens: int = DEFAULT_PROMPT_TOKENS,
    num_continuation_tokens: int = DEFAULT_CONTINUATION_TOKENS,
) -> list[TextPrompt]:
    """Prompts, always the same ones in the same order; the sources of the split take turns.

    Every document of the split gives one prompt before any gives a second. With the embedded model's tokenizer repeats
    begin after 195 prompts of 64 tokens with 256 after them (636 in all), after 426 of 64 tokens with any number after
    them. Prompts of one document are alike: intervals over more prompts than that are a little too narrow.

    Args:
        split: of the text inside the package: "test".
        path: a file of one's own instead. `.jsonl`: lines of {"text": ...}, which is cut like the split's,
            {"prompt": ...}, taken whole, with "continuation" if it is known, or FastChat's {"turns": [...]}, whose
            first turn is the prompt. Any other file: one text per line, which is cut.
        tokenizer: of the model that will read them, so that each prompt has exactly `num_prompt_tokens` of its tokens.
            None: cut at a space, at about 4 characters a token.
        num_prompts: at most so many. None: all there are.
        num_prompt_tokens: in a prompt.
        num_continuation_tokens: passages of the split with less than that after the prompt are left out.

    Raises:
        ParameterError: there is no such split.
        PromptError: the file cannot be read, or there is no prompt in it; no passage of the split is long enough.
    """
    found: list[TextPrompt] = []
    if path is not None:
        for record in _read_records(path):
            found.append(_own(record, path.name, tokenizer, num_prompt_tokens))
    else:
        needed = num_prompt_tokens + num_continuation_tokens

        def long_enough(passage: Passage) -> TextPrompt | None:
            return _beginning(passage, tokenizer, num_prompt_tokens, needed)

        found += islice(in_turns(long_enough, split), num_prompts)
        if not found and num_prompts != 0:
            raise PromptError(
                f"no held-out text has {needed} tokens, {num_prompt_tokens} of the prompt and "
                f"{num_continuation_tokens} after it: lower either, or give texts of your own with --prompts"
            )
    return found[:num_prompts]


def _beginning(passage: Passage, tokenizer: Tokenizer | None, num_tokens: int, needed: int) -> TextPrompt | None:
    """The prompt of a passage; None if that has fewer tokens than are needed."""
    if not _is_long_enough(passage.text, tokenizer, needed):
        return None
    prompt, ids = _cut(passage.text, tokenizer, num_tokens)
    return TextPrompt(
        prompt=prompt,
        continuation=passage.text[len(prompt) :],
        source=passage.source,
        licence=passage.licence,
        document=passage.document,
        token_ids=ids,
    )


def _is_long_enough(text: str, tokenizer: Tokenizer | None, num_tokens: int) -> bool:
    if tokenizer is None:
        return len(text) >= _CHARACTERS_PER_TOKEN * num_tokens
    return len(_encode(text, tokenizer, num_tokens)) >= num_tokens


def _encode(text: str, tokenizer: Tokenizer, num_tokens: int) -> list[int]:
    return tokenizer.encode(text[: _MAX_CHARACTERS_PER_TOKEN * num_tokens])


def _cut(text: str, tokenizer: Tokenizer | None, num_tokens: int) -> tuple[str, tuple[int, ...]]:
    """The beginning of a text as text and ids."""
    if tokenizer is None:
        end = text.rfind(" ", 0, _CHARACTERS_PER_TOKEN * num_tokens)
        return text[: end if end > 0 else _CHARACTERS_PER_TOKEN * num_tokens], ()
    ids = _encode(text, tokenizer, num_tokens)[:num_tokens]
    return tokenizer.decode(ids), tuple(ids)


def _own(record: dict[str, str], name: str, tokenizer: Tokenizer | None, num_tokens: int) -> TextPrompt:
    if "text" in record:
        prompt, ids = _cut(record["text"], tokenizer, num_tokens)
        # A decoder may not give back the very text; then the border is where as many characters are used up.
        continuation = record["text"][len(prompt) :]
    else:
        prompt, continuation = record["prompt"], record.get("continuation", "")
        ids = () if tokenizer is None else tuple(tokenizer.encode(prompt))
    return TextPrompt(prompt=prompt, continuation=continuation, source=name, licence="", token_ids=ids)


def _read_records(path: Path) -> Iterator[dict[str, str]]:
    """{"text"} or {"prompt"[, "continuation"]} of each line that is not blank."""
    num_records = 0
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if line.strip():
            num_records += 1
            yield _parse(line, f"{path} line {number}") if path.suffix == ".jsonl" else {"text": line.rstrip("\r")}
    if num_records == 0:
        raise PromptError(f"{path} holds no prompt; write one per line")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8: bad byte at offset {error.start}; convert it") from None


def _parse(line: str, place: str) -> dict[str, str]:
    try:
        row: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise PromptError(f"{place} is not JSON: {error}") from None
    if isinstance(row, dict) and isinstance(row.get("turns"), list) and row["turns"]:
        row = {"prompt": row["turns"][0]}
    forms = '{"text": "..."}, {"prompt": "...", "continuation": "..."} or {"turns": ["..."]}'
    if not isinstance(row, dict) or ("text" in row) == ("prompt" in row):
        raise PromptError(f"{place} must be an object of the form {forms}")
    wanted = {key: row[key] for key in ("text", "prompt", "continuation") if key in row}
    for key, value in wanted.items():
        if not isinstance(value, str) or not (value.strip() or key == "continuation"):
            raise PromptError(f"{place}: {key} must be a string that is not empty")
    return wanted
