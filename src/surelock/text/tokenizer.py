"""Text to token ids and back, such that text never becomes control: `Tokenizer`.

Ids that mean more than text are *control ids*: special tokens, [MASK], end ids and the markers of the chat template.
Text that spells one is encoded as its literal characters, in raw prompts and in chat messages alike; only the folder's
own chat template writes control ids.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
import tokenizers

from surelock.errors import PromptError, PromptTooLongError, TokenizerError
from surelock.text.chat_template import TEMPLATE_FILE, check_messages, check_text, interleave
from surelock.text.tokenizer_files import TokenizerFiles, damage_reported, read_tokenizer_files, tokenizer_errors

if TYPE_CHECKING:
    from surelock.models.config import ModelConfig

# Far above any text that fits (English has 4 or 5), far below what would be slow to encode only to be refused.
MAX_CHARACTERS_PER_POSITION: Final = 64

# A token shown on its own must not move the cursor or recolour the terminal.
_VISIBLE: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: "\N{SYMBOL FOR DELETE}",
    **dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}"),
}


class Tokenizer:
    """The tokenizer of one model folder, built with `Tokenizer.from_folder`. Threads may share it."""

    def __init__(self, files: TokenizerFiles, config: ModelConfig) -> None:
        self._folder = files.folder
        self._config = config
        self._full = files.backend
        self._full.no_truncation()
        self._full.no_padding()
        self._full.encode_special_tokens = False
        self._num_ids = 1 + max(self._full.get_vocab().values(), default=-1)
        self._added: dict[int, tokenizers.AddedToken] = self._full.get_added_tokens_decoder()
        self._template = files.template
        self._bos_id = None if files.bos_token is None else self._full.token_to_id(files.bos_token)

        named_ids = {self._full.token_to_id(token) for token in files.special_tokens}
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
        files = read_tokenizer_files(folder)
        if files is None:
            return None
        with damage_reported(folder):
            return cls(files, config)

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
        return self._template is not None

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Encode raw text, without a template. No control id comes out, whatever the text spells.

        Args:
            text: at most 64 characters for each position of the model's context.
            bos: begin with the begin-of-sequence id if `add_bos_token` is true in `tokenizer_config.json`. Pass False
                for text that continues a canvas.

        Raises:
            PromptError: the text is too long, holds a lone surrogate, or cannot be spelt without a control id.
        """
        check_text(text, "the text")
        self._check_length(len(text), "the text")
        ids = self._encode_safely(text)
        self._check_ids(ids)
        return [self._bos_id, *ids] if bos and self._bos_id is not None else ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Encode a conversation with the folder's chat template, up to where the assistant's answer begins.

        The ids equal those of transformers' `apply_chat_template(add_generation_prompt=True)` as long as no content
        spells a control token; one that does is encoded as its literal characters instead. What a template may use
        and the work it may do are limited.

        Args:
            messages: at most 1,000, each with exactly the keys `role` (system, user, assistant or tool) and `content`.

        Raises:
            PromptError: a message is malformed or too long, or cannot be spelt without a control id.
            TokenizerError: there is no chat template, or it fails, does too much work or rewrites contents.
        """
        checked = check_messages(messages)
        self._check_length(sum(len(message["content"]) for message in checked), "the conversation")
        if self._template is None:
            raise TokenizerError(
                f"{self._folder} has no chat template: use raw text, or add a {TEMPLATE_FILE} to the folder"
            )
        rendered, contents = self._template.render(checked)
        parts, num_controls = self._alias_controls(rendered)
        # Encoded as one text, so that tokens join across the borders of contents as they do in the whole.
        ids = self._encode_safely(interleave(parts, contents))
        if sum(token_id in self._alias_ids for token_id in ids) != num_controls:
            raise PromptError("a message cannot be told apart from the chat template's control tokens; rephrase it")
        self._check_ids([token_id for token_id in ids if token_id not in self._alias_ids])
        return [self._alias_ids.get(token_id, token_id) for token_id in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids. Special tokens, [MASK], end ids and ids beyond the tokenizer's decode to nothing."""
        text_ids = [token_id for token_id in ids if 0 <= token_id < self._num_ids and token_id not in self._hidden_ids]
        return self._decode(text_ids)

    def decode_visible(self, ids: Sequence[int | None], mask_char: str = "░") -> list[str]:
        """One string to display for each position of a canvas that is being denoised.

        None and [MASK] become `mask_char`, special tokens their name, bytes that are no whole character on their own
        the replacement character, control characters other than newline and tab their picture (U+2400 to U+2421).
        """
        masked = self.mask_token_id
        return [mask_char if token_id is None or token_id == masked else self._show(token_id) for token_id in ids]

    def _show_uncached(self, token_id: int) -> str:
        if token_id in self._hidden_ids and token_id in self._added:
            return self._added[token_id].content
        if not 0 <= token_id < self._num_ids:
            return ""
        before, shown = self._decode(self._anchor), self._decode([*self._anchor, token_id])
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
        added = ((alias, self._added[token_id]) for token_id, alias in self._aliases.items())
        safe.add_tokens(
            [
                tokenizers.AddedToken(alias, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False, special=False)
                for alias, token in added
            ]
        )
        return safe

    def _encode_safely(self, text: str) -> list[int]:
        ids: list[int] = self._encode(self._safe, text).ids
        return ids

    def _encode(self, backend: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
        with tokenizer_errors(lambda: f"{self._folder}: a text cannot be encoded"):
            return backend.encode(text, add_special_tokens=False)

    def _decode(self, ids: Sequence[int]) -> str:
        with tokenizer_errors(lambda: f"{self._folder}: tokens cannot be decoded"):
            text: str = self._full.decode(ids, skip_special_tokens=False)
            return text

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
            raise PromptTooLongError(
                f"{name} has {num_characters} characters; the limit is {limit}, {MAX_CHARACTERS_PER_POSITION} for each "
                f"of the model's {self._config.max_sequence_length} positions: shorten it"
            )

    def _alias_controls(self, parts: Sequence[str]) -> tuple[list[str], int]:
        """Put aliases for the control tokens in what the template wrote. Returns their number too.

        White space next to a content may be the content's own: it stays text, even if a control token is spelt with it.
        """
        aliased, num_controls = [], 0
        for index, part in enumerate(parts):
            start = len(part) - len(part.lstrip()) if index > 0 else 0
            end = max(start, len(part.rstrip())) if index < len(parts) - 1 else len(part)
            pieces, done = [], 0
            encoding = self._encode(self._full, part[start:end])
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
        after = self._template.written_after_answer() if self._template else ""
        ids: list[int] = self._encode(self._full, after).ids if after else []
        is_control = bool(ids) and (ids[0] in special_ids or (ids[0] in self._added and not after[0].isspace()))
        return frozenset(ids[:1]) - {self.mask_token_id} if is_control else frozenset()

    def _find_markers(self) -> frozenset[int]:
        """Added tokens that the chat template spells out, such as role tags: not every folder marks them special."""
        source = self._template.source if self._template else ""
        spelt = {i: token.content.strip() for i, token in self._added.items() if token.content in source}
        # Not words, punctuation or white space, which are added to some vocabularies and belong to text.
        return frozenset(i for i, content in spelt.items() if len(content) >= 3 and not content.isalnum())
