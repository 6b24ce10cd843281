"""The tokenizer files of a model folder: read with transformers, after the checks it does not make itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tokenizers

from surelock.errors import TokenizerError, shown, shown_error
from surelock.models.checkpoint import read_json_object
from surelock.text.chat_template import TEMPLATE_FILE, ChatTemplate
from surelock.text.tokenizer_parts import MAX_ADDED_TOKENS, MAX_ID, MAX_TOKEN_CHARACTERS, check_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TOKENIZER_FILE: Final = "tokenizer.json"
_CONFIG_FILE: Final = "tokenizer_config.json"
_SPECIAL_FILE: Final = "special_tokens_map.json"
_ADDED_FILE: Final = "added_tokens.json"
_MAX_BYTES: Final = {
    _TOKENIZER_FILE: 64 << 20,
    _CONFIG_FILE: 4 << 20,
    _SPECIAL_FILE: 4 << 20,
    _ADDED_FILE: 4 << 20,
    TEMPLATE_FILE: 1 << 20,
}
# A value takes dozens of bytes of memory, and a file can hold one in three. 200,000 tokens with their merges are 1.1
# million values.
_MAX_VALUES: Final = {_TOKENIZER_FILE: 1 << 21, _CONFIG_FILE: 1 << 17, _SPECIAL_FILE: 1 << 17, _ADDED_FILE: 1 << 17}
_OTHER_FILES: Final = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    _ADDED_FILE,
    _SPECIAL_FILE,
    _CONFIG_FILE,
)
_TOKEN_KEYS: Final = frozenset({"content", "lstrip", "normalized", "rstrip", "single_word", "special"})


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the tokenizer files of a folder hold.

    Attributes:
        special_tokens: the texts of special tokens, as far as the files name them.
        bos_token: the text of the token to begin raw text with; None unless `add_bos_token` is true.
    """

    folder: Path
    backend: tokenizers.Tokenizer
    special_tokens: tuple[str, ...]
    bos_token: str | None
    template: ChatTemplate | None


def read_tokenizer_files(folder: Path) -> TokenizerFiles | None:
    """Read `tokenizer.json` and what belongs to it; returns None and raises as `Tokenizer.from_folder` says."""
    if not (folder / _TOKENIZER_FILE).is_file():
        others = [name for name in _OTHER_FILES if (folder / name).is_file()]
        if not others:
            return None
        raise TokenizerError(
            f"{folder} has {others[0]} but no {_TOKENIZER_FILE}, the one format read for now: save one with "
            "transformers (save_pretrained of a fast tokenizer), or remove the tokenizer files and use token ids"
        )
    _check_sizes(folder)
    _check_template(folder / TEMPLATE_FILE)
    settings = _read_object(folder / _CONFIG_FILE)
    _check_added_tokens(folder, settings, _checked_added_tokens(folder / _TOKENIZER_FILE))
    # Imported here because it takes most of a second, and token ids do not need it.
    from transformers import PreTrainedTokenizerFast

    with damage_reported(folder):
        loaded = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        backend = loaded.backend_tokenizer
        _check_all_added(folder, backend)
        return TokenizerFiles(
            folder=folder,
            backend=backend,
            special_tokens=tuple(loaded.all_special_tokens),
            bos_token=loaded.bos_token if settings.get("add_bos_token") is True else None,
            template=_template(loaded, folder),
        )


def _check_all_added(folder: Path, backend: tokenizers.Tokenizer) -> None:
    """Check the added tokens of all files together."""
    added = backend.get_added_tokens_decoder()
    longest = max((len(token.content) for token in added.values()), default=0)
    if len(added) > MAX_ADDED_TOKENS or max(added, default=0) > MAX_ID or longest > MAX_TOKEN_CHARACTERS:
        raise TokenizerError(
            f"{folder}: there are {len(added)} added tokens, with ids up to {max(added)} and at most {longest} "
            f"characters; the limits are {MAX_ADDED_TOKENS}, {MAX_ID} and {MAX_TOKEN_CHARACTERS}"
        )
    for token in added.values():
        # Each would look through the white space beside it again.
        if token.content.isspace() and (token.lstrip or token.rstrip):
            raise TokenizerError(
                f"{folder}: the added token {shown(token.content)} is white space and strips it as well"
            )


@contextlib.contextmanager
def damage_reported(folder: Path) -> Iterator[None]:
    """Turn whatever the folder's files make the libraries raise into a TokenizerError."""
    with tokenizer_errors(lambda: f"{folder / _damaged_file(folder)} does not make a tokenizer"):
        yield


@contextlib.contextmanager
def tokenizer_errors(describe: Callable[[], str]) -> Iterator[None]:
    """Turn whatever the tokenizers library raises into a TokenizerError."""
    try:
        yield
    except TokenizerError:
        raise
    except BaseException as error:
        # A panic inside the tokenizers library is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{describe()}: {shown_error(error)}") from error


def _damaged_file(folder: Path) -> str:
    """Which of the two files is to blame for a tokenizer that does not load."""
    try:
        with tokenizer_errors(str):
            tokenizers.Tokenizer.from_file(str(folder / _TOKENIZER_FILE))
    except TokenizerError:
        return _TOKENIZER_FILE
    return _CONFIG_FILE


def _template(loaded: PreTrainedTokenizerFast, folder: Path) -> ChatTemplate | None:
    try:
        source: object = loaded.get_chat_template()
    # There is none, or there are several named ones and none is the default.
    except ValueError:
        return None
    if not isinstance(source, str):
        raise TokenizerError(f"{folder / _CONFIG_FILE}: chat_template is {shown(source)}; it must be a string")
    variables = {name: str(token) for name, token in loaded.special_tokens_map.items()}
    return ChatTemplate(source, special_tokens=variables, folder=folder)


def _check_sizes(folder: Path) -> None:
    for name, max_bytes in _MAX_BYTES.items():
        path = folder / name
        num_bytes = path.stat().st_size if path.is_file() else 0
        if num_bytes > max_bytes:
            raise TokenizerError(f"{path} has {num_bytes} bytes; the limit is {max_bytes}")


def _check_template(path: Path) -> None:
    try:
        if path.is_file():
            path.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {shown_error(error)}") from error


def _checked_added_tokens(path: Path) -> list[dict[str, Any]]:
    """The added tokens of a checked tokenizer.json, of which the rest is not kept in memory."""
    content = _read_object(path)
    try:
        check_tokenizer(content)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}; with this folder only token ids can be used") from None
    return _members(content.get("added_tokens"))


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object of the file; an empty one if there is no file."""
    if not path.is_file():
        return {}
    num_values = path.read_bytes().count(b",")
    if num_values > _MAX_VALUES[path.name]:
        raise TokenizerError(f"{path} has {num_values} commas; the limit is {_MAX_VALUES[path.name]}")
    content = read_json_object(path, max_bytes=_MAX_BYTES[path.name], error=TokenizerError)
    for key, value in content.items():
        if isinstance(value, dict | list) and len(value) > MAX_ADDED_TOKENS:
            raise TokenizerError(f"{path}: {shown(key)} has {len(value)} members; the limit is {MAX_ADDED_TOKENS}")
    return content


def _check_added_tokens(folder: Path, settings: dict[str, Any], added: list[dict[str, Any]]) -> None:
    """Refuse unknown keys in what transformers makes added tokens of: the tokenizers library prints them on stdout."""
    _check_keys(folder / _CONFIG_FILE, [*_marked(settings), *_members(settings.get("added_tokens_decoder"))])
    if "added_tokens_decoder" in settings:
        return
    # Then older places are read as well.
    special = _read_object(folder / _SPECIAL_FILE)
    _read_object(folder / _ADDED_FILE)
    extra = special.pop("extra_special_tokens", None)
    unnamed = _members(extra) if isinstance(extra, list) else []
    _check_keys(folder / _SPECIAL_FILE, [*_marked([special, extra]), *_members(special), *unnamed])
    _check_keys(folder / _TOKENIZER_FILE, [_without(token, "id") for token in added])


def _check_keys(path: Path, tokens: list[dict[str, Any]]) -> None:
    for token in tokens:
        unknown = sorted(token.keys() - _TOKEN_KEYS)
        if unknown:
            raise TokenizerError(
                f"{path}: the added token {shown(token.get('content'))} has the key {shown(unknown[0])}, which is none "
                f"of {', '.join(sorted(_TOKEN_KEYS))}; remove it"
            )


def _marked(value: object) -> list[dict[str, Any]]:
    """The objects anywhere in `value` that say that they are added tokens, without the key that says so."""
    found, pending = [], [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict) and item.get("__type") == "AddedToken":
            found.append(_without(item, "__type"))
        elif isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, list):
            pending += item
    return found


def _members(value: object) -> list[dict[str, Any]]:
    """The objects directly in an object or a list."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, dict)]


def _without(token: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in token.items() if name != key}
