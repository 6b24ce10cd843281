"""Text to token ids and back, such that text never becomes control: `Tokenizer`.

Ids that mean more than text are *control ids*: special tokens, [MASK], end ids and the markers of the chat template.
Text that spells one is encoded as its literal characters, in raw prompts and in chat messages alike; only the folder's
own chat template writes control ids.
"""

from __future__ import annotations

import functools
import json
import math
import reprlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import jinja2
import jinja2.exceptions
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
import orjson
import tokenizers

from surelock.errors import PromptError, TokenizerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from surelock.models.config import ModelConfig

ROLES: Final = ("system", "user", "assistant", "tool")
MAX_MESSAGES: Final = 1000
# Far above any text that fits (English has 4 or 5), far below what would be slow to encode only to be refused.
MAX_CHARACTERS_PER_POSITION: Final = 64
# Characters a chat template may write besides the contents, and how long it may loop.
MAX_TEMPLATE_OUTPUT: Final = 1 << 20
MAX_RENDER_SECONDS: Final = 5.0

_TOKENIZER_FILE: Final = "tokenizer.json"
_CONFIG_FILE: Final = "tokenizer_config.json"
_TEMPLATE_FILE: Final = "chat_template.jinja"
_MAX_BYTES: Final = {_TOKENIZER_FILE: 256 << 20, _CONFIG_FILE: 16 << 20, _TEMPLATE_FILE: 1 << 20}
_OTHER_FILES: Final = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "added_tokens.json",
    "special_tokens_map.json",
    _CONFIG_FILE,
)
_DEADLINE: Final = "surelock deadline"
# A token shown on its own must not move the cursor or recolour the terminal.
_VISIBLE: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: "\N{SYMBOL FOR DELETE}",
    **dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}"),
}

_Result = TypeVar("_Result")


class Tokenizer:
    """The tokenizer of one model folder, built with `Tokenizer.from_folder`. Threads may share it."""

    def __init__(self, loaded: PreTrainedTokenizerFast, config: ModelConfig, *, folder: Path, add_bos: bool) -> None:
        self._folder = folder
        self._config = config
        self._full: tokenizers.Tokenizer = loaded.backend_tokenizer
        self._full.no_truncation()
        self._full.no_padding()
        self._full.encode_special_tokens = False
        self._num_ids = 1 + max(self._full.get_vocab().values(), default=-1)
        self._added: dict[int, tokenizers.AddedToken] = self._full.get_added_tokens_decoder()
        self._template_source = _template_source(loaded, folder)
        self._template_names = {name: str(token) for name, token in loaded.special_tokens_map.items()}
        self._bos_id = self._full.token_to_id(self._template_names.get("bos_token", "")) if add_bos else None

        named_ids = {self._full.token_to_id(token) for token in loaded.all_special_tokens}
        added_ids = {token_id for token_id, token in self._added.items() if token.special}
        special_ids = {token_id for token_id in named_ids | added_ids if token_id is not None}
        self._end_ids = frozenset(config.eos_token_ids) | self._find_turn_end(special_ids)
        # What decodes to nothing, and what text may not contain: also the template's own markers, special or not.
        self._hidden_ids = frozenset(special_ids | {config.mask_token_id} | self._end_ids)
        self._control_ids = self._hidden_ids | self._find_markers()

        nonce = secrets.token_hex(16)
        self._aliases = {token_id: f"{nonce}x{token_id}x" for token_id in self._control_ids & self._added.keys()}
        self._safe = self._make_safe_backend()
        self._alias_ids = {self._safe.token_to_id(alias): token_id for token_id, alias in self._aliases.items()}
        # A token is shown as it looks after this one: many decoders drop the space of a first token.
        self._anchor = [token_id for token_id in self._encode_safely("a") if self._is_text(token_id)][-1:]
        self._show = functools.lru_cache(maxsize=1 << 16)(self._show_uncached)

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> Tokenizer | None:
        """Load `tokenizer.json` with, where they exist, `tokenizer_config.json` and `chat_template.jinja`.

        No code of the folder runs, nothing is fetched and nothing is asked on the terminal.

        Returns:
            None if the folder has no tokenizer file at all.

        Raises:
            TokenizerError: a file is damaged or too large, or there are tokenizer files but no `tokenizer.json`.
        """
        if not (folder / _TOKENIZER_FILE).is_file():
            others = [name for name in _OTHER_FILES if (folder / name).is_file()]
            if not others:
                return None
            raise TokenizerError(
                f"{folder} has {others[0]} but no {_TOKENIZER_FILE}, the one format read for now: save one with "
                "transformers (save_pretrained of a fast tokenizer), or remove the tokenizer files and use token ids"
            )
        settings = _check_files(folder)
        # Imported here because it takes most of a second, and whoever passes token ids does not need it.
        from transformers import PreTrainedTokenizerFast

        def load() -> Tokenizer:
            loaded = PreTrainedTokenizerFast.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            return cls(loaded, config, folder=folder, add_bos=settings.get("add_bos_token") is True)

        return _guard(load, lambda: f"{folder / _damaged_file(folder)} does not make a tokenizer")

    @property
    def mask_token_id(self) -> int:
        """The id of [MASK], from the model's config."""
        return self._config.mask_token_id

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a text: those of the model's config, and the one the chat template ends a turn with."""
        return self._end_ids

    @property
    def has_chat_template(self) -> bool:
        """Whether the folder has a chat template."""
        return self._template_source is not None

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Encode raw text, without a template. No control id comes out, whatever the text spells.

        Args:
            text: at most 64 characters for each position of the model's context.
            bos: begin with the begin-of-sequence id if `add_bos_token` is true in `tokenizer_config.json`. Pass False
                for text that continues a canvas.

        Raises:
            PromptError: the text is too long, holds a lone surrogate, or cannot be spelt without a control id.
        """
        self._check_length(_check_text(text, "the text"), "the text")
        ids = self._encode_safely(text)
        self._check_ids(ids)
        return [self._bos_id, *ids] if bos and self._bos_id is not None else ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Encode a conversation with the folder's chat template, up to where the assistant's answer begins.

        The ids equal those of transformers' `apply_chat_template(add_generation_prompt=True)` as long as no content
        spells a control token; one that does is encoded as its literal characters instead. The time a template loops
        and the text it writes are limited, the memory that a single expression of it takes is not.

        Args:
            messages: at most 1,000, each with exactly the keys `role` (system, user, assistant or tool) and `content`.

        Raises:
            PromptError: a message is malformed or too long, or cannot be spelt without a control id.
            TokenizerError: there is no chat template, or it fails, runs too long or rewrites contents.
        """
        checked = self._check_messages(messages)
        rendered, contents = self._render_marked(checked)
        if _interleave(rendered, contents) != self._render(checked):
            raise TokenizerError(
                f"{self._folder}: the chat template changes the content of a message by more than trimming it; "
                "encode the conversation yourself and pass prompt_token_ids"
            )
        parts, num_controls = self._alias_controls(rendered)
        # Encoded as one text, so that tokens join across the borders of contents as they do in the whole.
        ids = self._encode_safely(_interleave(parts, contents))
        if sum(token_id in self._alias_ids for token_id in ids) != num_controls:
            raise PromptError("a message cannot be told apart from the chat template's control tokens; rephrase it")
        self._check_ids([token_id for token_id in ids if token_id not in self._alias_ids])
        return [self._alias_ids.get(token_id, token_id) for token_id in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids. Special tokens, [MASK], end ids and ids beyond the tokenizer's decode to nothing."""
        text_ids = [token_id for token_id in ids if 0 <= token_id < self._num_ids and token_id not in self._hidden_ids]
        decoded: str = self._full.decode(text_ids, skip_special_tokens=False)
        return decoded

    def decode_visible(self, ids: Sequence[int | None], mask_char: str = "░") -> list[str]:
        """One string to display for each position of a canvas that is being denoised.

        None and [MASK] become `mask_char`, special tokens their name, bytes that are no whole character on their own
        the replacement character, control characters other than newline and tab their picture (U+2400 to U+2421).
        """
        masked = (None, self.mask_token_id)
        return [mask_char if token_id is None or token_id in masked else self._show(token_id) for token_id in ids]

    def _show_uncached(self, token_id: int) -> str:
        if token_id in self._hidden_ids and token_id in self._added:
            return self._added[token_id].content
        if not 0 <= token_id < self._num_ids:
            return ""
        before: str = self._full.decode(self._anchor, skip_special_tokens=False)
        shown: str = self._full.decode([*self._anchor, token_id], skip_special_tokens=False)
        return shown.removeprefix(before).translate(_VISIBLE)

    def _is_text(self, token_id: int) -> bool:
        """Whether a user's text may contain the id: known to tokenizer and model, and not a control id."""
        return token_id < min(self._num_ids, self._config.vocab_size) and token_id not in self._control_ids

    def _make_safe_backend(self) -> tokenizers.Tokenizer:
        """A copy that reads control tokens as plain text, and the unguessable aliases as control tokens.

        Ordinary added tokens, such as runs of spaces, keep working and every id stays what it was.
        """
        serialised = orjson.loads(self._full.to_str())
        serialised["post_processor"] = None
        for token in serialised["added_tokens"]:
            token["special"] = token["id"] in self._control_ids
        safe = tokenizers.Tokenizer.from_buffer(orjson.dumps(serialised))
        # Read the special tokens' spelling as text. [MASK] may be added without being special: hence the loop above.
        safe.encode_special_tokens = True
        safe.add_tokens(
            [
                tokenizers.AddedToken(
                    alias, lstrip=self._added[i].lstrip, rstrip=self._added[i].rstrip, normalized=False, special=False
                )
                for i, alias in self._aliases.items()
            ]
        )
        return safe

    def _encode_safely(self, text: str) -> list[int]:
        ids: list[int] = self._safe.encode(text, add_special_tokens=False).ids
        return ids

    def _check_ids(self, ids: Sequence[int]) -> None:
        for token_id in ids:
            if not self._is_text(token_id):
                raise PromptError(
                    f"the text cannot be spelt without {self._full.id_to_token(token_id)!r} (id {token_id}), a control "
                    "token or one the model does not have; rephrase it, or pass prompt_token_ids"
                )

    def _check_length(self, num_characters: int, name: str) -> None:
        limit = MAX_CHARACTERS_PER_POSITION * self._config.max_sequence_length
        if num_characters > limit:
            raise PromptError(
                f"{name} has {num_characters} characters; the limit is {limit}, {MAX_CHARACTERS_PER_POSITION} for each "
                f"of the model's {self._config.max_sequence_length} positions: shorten it"
            )

    def _check_messages(self, messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        if not isinstance(messages, list | tuple) or not messages:
            raise PromptError("messages must be a list of at least one {'role': ..., 'content': ...}")
        if len(messages) > MAX_MESSAGES:
            raise PromptError(f"there are {len(messages)} messages; the limit is {MAX_MESSAGES}: drop the oldest")
        for index, message in enumerate(messages):
            _check_message(message, f"messages[{index}]")
        self._check_length(sum(len(message["content"]) for message in messages), "the conversation")
        return [{"role": message["role"], "content": message["content"]} for message in messages]

    def _render_marked(self, messages: Sequence[Mapping[str, str]]) -> tuple[list[str], list[str]]:
        """Render with a unique mark for each content, and cut the text at the marks.

        A mark keeps the white space around the content it stands for, so that a template that trims trims that. Empty
        contents stay empty: they need no protection, and templates ask for them.

        Returns:
            what the template wrote, n + 1 parts, and the n non-empty contents between them without surrounding space.
        """
        nonce = secrets.token_hex(16)
        while any(nonce in message["content"] for message in messages):
            nonce = secrets.token_hex(16)
        marks = {f"{nonce}m{index}e": index for index, message in enumerate(messages) if message["content"]}
        marked = [dict(message) for message in messages]
        for mark, index in marks.items():
            content = messages[index]["content"]
            start = len(content) - len(content.lstrip())
            end = start + len(content.strip())
            marked[index]["content"] = content[:start] + mark + content[end:]
        rendered = self._render(marked)
        for mark, index in marks.items():
            if rendered.count(mark) != 1:
                raise TokenizerError(
                    f"{self._folder}: the chat template changes the content of messages[{index}], or writes it "
                    f"{rendered.count(mark)} times; encode the conversation yourself and pass prompt_token_ids"
                )
        parts, contents = [], []
        for mark in sorted(marks, key=rendered.index):
            part, _, rendered = rendered.partition(mark)
            parts.append(part)
            contents.append(messages[marks[mark]]["content"].strip())
        return [*parts, rendered], contents

    def _alias_controls(self, parts: Sequence[str]) -> tuple[list[str], int]:
        """Put aliases for the control tokens in what the template wrote. Returns their number too.

        White space next to a content may be the content's own: it stays text, even if a control token is spelt with it.
        """
        aliased, num_controls = [], 0
        for index, part in enumerate(parts):
            start = len(part) - len(part.lstrip()) if index > 0 else 0
            end = max(start, len(part.rstrip())) if index < len(parts) - 1 else len(part)
            pieces, done = [], 0
            encoding = self._full.encode(part[start:end], add_special_tokens=False)
            for token_id, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
                if token_id == self.mask_token_id:
                    raise TokenizerError(f"{self._folder}: the chat template writes [MASK], id {token_id}")
                if token_id in self._aliases:
                    pieces += [part[done : start + first], self._aliases[token_id]]
                    done, num_controls = start + last, num_controls + 1
            aliased.append("".join([*pieces, part[done:]]))
        return aliased, num_controls

    def _find_turn_end(self, special_ids: set[int]) -> frozenset[int]:
        """The special or added token that the chat template writes right after what the assistant said, if any."""
        if self._template_source is None:
            return frozenset()
        mark = secrets.token_hex(16)
        exchange = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": mark}]
        try:
            _, found, after = self._render(exchange, add_generation_prompt=False).partition(mark)
        except TokenizerError:
            # The template may be usable all the same; `encode_chat` reports it if not.
            return frozenset()
        ids: list[int] = self._full.encode(after, add_special_tokens=False).ids if found else []
        is_control = bool(ids) and (ids[0] in special_ids or (ids[0] in self._added and not after[0].isspace()))
        return frozenset(ids[:1]) - {self.mask_token_id} if is_control else frozenset()

    def _find_markers(self) -> frozenset[int]:
        """Added tokens that the chat template spells out, such as role tags: not every folder marks them special."""
        source = self._template_source or ""
        spelt = {i: token.content.strip() for i, token in self._added.items() if token.content in source}
        # Not words, punctuation or white space, which are added to some vocabularies and belong to text.
        return frozenset(i for i, content in spelt.items() if len(content) >= 3 and not content.isalnum())

    @functools.cached_property
    def _template(self) -> jinja2.Template:
        if self._template_source is None:
            raise TokenizerError(
                f"{self._folder} has no chat template: use raw text, or add a {_TEMPLATE_FILE} to the folder"
            )
        return _compile_template(self._template_source)

    def _render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        limit = MAX_TEMPLATE_OUTPUT + sum(len(message["content"]) for message in messages)
        try:
            pieces, num_characters = [], 0
            context = {
                **self._template_names,
                "messages": messages,
                "tools": None,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
                _DEADLINE: time.monotonic() + MAX_RENDER_SECONDS,
            }
            for piece in self._template.generate(context):
                num_characters += len(piece)
                if num_characters > limit:
                    raise TokenizerError(
                        f"{self._folder}: the chat template writes more than {MAX_TEMPLATE_OUTPUT} characters"
                    )
                pieces.append(piece)
        except TokenizerError:
            raise
        # A template can fail in any way Python can.
        except Exception as error:
            raise TokenizerError(f"{self._folder}: the chat template failed: {_one_line(error)}") from error
        return "".join(pieces)


class _BoundedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """jinja2's sandbox, with a deadline checked in every loop and macro, and no huge products or powers."""

    intercepted_binops = frozenset({"*", "**"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        template = super()._parse(source, name, filename)
        repeated: list[jinja2.nodes.For | jinja2.nodes.Macro | jinja2.nodes.CallBlock] = [
            *template.find_all(jinja2.nodes.For),
            *template.find_all(jinja2.nodes.Macro),
            *template.find_all(jinja2.nodes.CallBlock),
        ]
        for node in repeated:
            check = jinja2.nodes.EnvironmentAttribute("check_deadline")
            call = jinja2.nodes.Call(check, [jinja2.nodes.ContextReference()], [], None, None)
            node.body.insert(0, jinja2.nodes.ExprStmt(call).set_lineno(node.lineno).set_environment(self))
        return template

    def check_deadline(self, context: jinja2.runtime.Context) -> None:
        # The template can shadow a name for itself, but not write to the parent's.
        if time.monotonic() > context.parent[_DEADLINE]:
            raise jinja2.exceptions.SecurityError(f"it ran for more than {MAX_RENDER_SECONDS:g} s")

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length()
            size = bits * right if operator == "**" else bits + right.bit_length()
        elif operator == "*":
            size = math.prod(len(value) if hasattr(value, "__len__") else value for value in (left, right))
        else:
            size = 0
        if size > MAX_TEMPLATE_OUTPUT:
            raise jinja2.exceptions.SecurityError(f"the result of its {operator} is too large")
        return super().call_binop(context, operator, left, right)


def _compile_template(source: str) -> jinja2.Template:
    """Compile in the dialect of transformers (its filters, functions and tags), within our bounds."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    dialect = _compile_jinja_template("").environment
    environment = _BoundedEnvironment(
        trim_blocks=dialect.trim_blocks,
        lstrip_blocks=dialect.lstrip_blocks,
        extensions=[type(extension) for extension in dialect.extensions.values()],
    )
    environment.filters.update(dialect.filters)
    environment.globals.update(dialect.globals)
    return environment.from_string(source)


def _template_source(loaded: PreTrainedTokenizerFast, folder: Path) -> str | None:
    try:
        source: object = loaded.get_chat_template()
    # There is none, or there are several named ones and none is the default.
    except ValueError:
        return None
    if not isinstance(source, str):
        raise TokenizerError(f"{folder / _CONFIG_FILE}: chat_template is {_shown(source)}; it must be a string")
    return source


def _check_files(folder: Path) -> dict[str, Any]:
    """Check what can be checked before the files are loaded; returns the content of `tokenizer_config.json`."""
    settings: object = {}
    for name, max_bytes in _MAX_BYTES.items():
        path = folder / name
        if not path.is_file():
            continue
        try:
            num_bytes = path.stat().st_size
            if num_bytes <= max_bytes and name == _CONFIG_FILE:
                settings = json.loads(path.read_bytes())
            elif num_bytes <= max_bytes and name == _TEMPLATE_FILE:
                path.read_text(encoding="utf-8")
        except (OSError, ValueError, RecursionError) as error:
            raise TokenizerError(f"{path} cannot be read: {_one_line(error)}") from error
        if num_bytes > max_bytes:
            raise TokenizerError(f"{path} has {num_bytes} bytes; the limit is {max_bytes}")
    if not isinstance(settings, dict):
        raise TokenizerError(f"{folder / _CONFIG_FILE} must hold a JSON object, not {_shown(settings)}")
    return settings


def _damaged_file(folder: Path) -> str:
    """Which of the two files is to blame for a tokenizer that does not load."""

    def load() -> str:
        tokenizers.Tokenizer.from_file(str(folder / _TOKENIZER_FILE))
        return _CONFIG_FILE

    try:
        return _guard(load, str)
    except TokenizerError:
        return _TOKENIZER_FILE


def _guard(make: Callable[[], _Result], describe: Callable[[], str]) -> _Result:
    """Call `make`; turn whatever the files it reads make it raise into a TokenizerError."""
    try:
        return make()
    except TokenizerError:
        raise
    except BaseException as error:
        # A panic inside the tokenizers library is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{describe()}: {_one_line(error)}") from error


def _check_text(text: object, name: str) -> int:
    """Check that `text` is text that can be encoded; returns its number of characters."""
    if not isinstance(text, str):
        raise PromptError(f"{name} is {_shown(text)}; it must be a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{name} has a lone surrogate, {text[error.start]!r}, at character {error.start}; it must be valid Unicode"
        ) from error
    return len(text)


def _check_message(message: object, name: str) -> None:
    if not isinstance(message, Mapping):
        raise PromptError(f"{name} is {_shown(message)}; it must be {{'role': ..., 'content': ...}}")
    if set(message) != {"role", "content"}:
        raise PromptError(f"{name} has the keys {_shown(list(message))}; it must have exactly 'role' and 'content'")
    if message["role"] not in ROLES:
        raise PromptError(f"{name}.role is {_shown(message['role'])}; it must be one of {', '.join(ROLES)}")
    _check_text(message["content"], f"{name}.content")


def _interleave(parts: Sequence[str], contents: Sequence[str]) -> str:
    """Join n + 1 parts with the n contents between them."""
    return "".join(text for pair in zip(parts, [*contents, ""], strict=True) for text in pair)


def _shown(value: object) -> str:
    """A short, one-line form of any value, however large."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    return " ".join(reprlib.repr(value).split())


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    readable = "".join(character if character.isprintable() else "?" for character in text)
    return f"{type(error).__name__}: {readable:.200}"
