"""Which tokenizer.json is read: only known parts, whose time and output are linear in the text with a small factor.

The tokenizers library bounds neither: a normalizer of a few bytes can multiply a text by 10^8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from surelock.errors import TokenizerError, shown
from surelock.text.split_pattern import MAX_PATTERN, is_linear

# LLaDA, Dream and SDAR have up to 157,184 tokens, the next larger vocabulary in use 200,000 tokens and 446,000 merges.
MAX_TOKENS: Final = 1 << 18
MAX_ID: Final = 1 << 20
MAX_MERGES: Final = 500_000
MAX_ADDED_TOKENS: Final = 1 << 13
MAX_TOKEN_CHARACTERS: Final = 512
MAX_VOCABULARY_CHARACTERS: Final = 1 << 22
_MAX_PARTS: Final = 16
# How many times as many bytes all normalizers and pre-tokenizers together, or all decoders, may make of a text.
MAX_GROWTH: Final = 128
_MAX_AFFIX: Final = 16
_MAX_WORD: Final = 1000

_BYTE_LEVEL: Final = frozenset({"add_prefix_space", "trim_offsets", "use_regex"})
_METASPACE: Final = frozenset({"replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"})


def _bytes(part: dict[str, Any], key: str) -> int:
    """The length of a text of the part in bytes."""
    return len(str(part.get(key, "")).encode(errors="replace"))


def _metaspace(part: dict[str, Any]) -> int:
    return 1 + _bytes(part, "replacement")


def _replace(part: dict[str, Any]) -> int:
    """A regular expression may match nothing before each character."""
    content, pattern = _bytes(part, "content"), part.get("pattern")
    literal = pattern.get("String") if isinstance(pattern, dict) else None
    return max(1, -(-content // len(literal.encode(errors="replace")))) if isinstance(literal, str) else 1 + content


def _of(growth: int) -> Callable[[dict[str, Any]], int]:
    return lambda part: growth


# For each kind of part, by type: its keys, and the largest factor by which it makes a text of UTF-8 longer. Those of
# Unicode's forms are from its technical report 36.
_Kinds = dict[str, tuple[frozenset[str], Callable[[dict[str, Any]], int]]]
_NONE: Final[frozenset[str]] = frozenset()
_NORMALIZERS: Final[_Kinds] = {
    "NFC": (_NONE, _of(3)),
    "NFD": (_NONE, _of(3)),
    "NFKC": (_NONE, _of(11)),
    "NFKD": (_NONE, _of(11)),
    "Nmt": (_NONE, _of(1)),
    "Lowercase": (_NONE, _of(2)),
    "StripAccents": (_NONE, _of(1)),
    "Strip": (frozenset({"strip_left", "strip_right"}), _of(1)),
    "BertNormalizer": (frozenset({"clean_text", "handle_chinese_chars", "strip_accents", "lowercase"}), _of(12)),
    "ByteLevel": (_BYTE_LEVEL, _of(2)),
    "Prepend": (frozenset({"prepend"}), lambda part: 1 + _bytes(part, "prepend")),
    "Replace": (frozenset({"pattern", "content"}), _replace),
}
_PRE_TOKENIZERS: Final[_Kinds] = {
    # Two bytes of each, and a space before each piece.
    "ByteLevel": (_BYTE_LEVEL, _of(4)),
    "Split": (frozenset({"pattern", "behavior", "invert"}), _of(1)),
    "Metaspace": (_METASPACE, _metaspace),
    "Digits": (frozenset({"individual_digits"}), _of(1)),
    "Punctuation": (frozenset({"behavior"}), _of(1)),
    "CharDelimiterSplit": (frozenset({"delimiter"}), _of(1)),
    "Whitespace": (_NONE, _of(1)),
    "WhitespaceSplit": (_NONE, _of(1)),
    "BertPreTokenizer": (_NONE, _of(1)),
    "UnicodeScripts": (_NONE, _of(1)),
}
_DECODERS: Final[_Kinds] = {
    # A byte that is no character becomes one of three.
    "ByteLevel": (_BYTE_LEVEL, _of(3)),
    "ByteFallback": (_NONE, _of(3)),
    "Fuse": (_NONE, _of(1)),
    "Strip": (frozenset({"content", "start", "stop"}), _of(1)),
    "Metaspace": (_METASPACE, _metaspace),
    "WordPiece": (frozenset({"prefix", "cleanup"}), _of(2)),
    "BPEDecoder": (frozenset({"suffix"}), _of(2)),
    "Replace": (frozenset({"pattern", "content"}), _replace),
}
_SECTIONS: Final = (
    ("normalizer", "normalizers", _NORMALIZERS),
    ("pre_tokenizer", "pretokenizers", _PRE_TOKENIZERS),
    ("decoder", "decoders", _DECODERS),
)
# fmt: off
_MODELS: Final = {
    "BPE": frozenset({
        "vocab", "merges", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
        "byte_fallback", "ignore_merges",
    }),
    "WordPiece": frozenset({"vocab", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word"}),
    "WordLevel": frozenset({"vocab", "unk_token"}),
}
# fmt: on


def check_tokenizer(content: dict[str, Any]) -> None:
    """Check what a tokenizer.json holds.

    Raises:
        TokenizerError: there is a part that is not known, or one that is too large or too slow; the message begins
            with where it is.
    """
    growths = {}
    for section, nested, kinds in _SECTIONS:
        growths[section] = 1
        for num_parts, (place, part) in enumerate(_parts(content.get(section), section, nested), start=1):
            if num_parts > _MAX_PARTS:
                raise TokenizerError(f"{section} has more than {_MAX_PARTS} parts")
            growths[section] *= _check_part(part, place, kinds)
    growth = max(growths["normalizer"] * growths["pre_tokenizer"], growths["decoder"])
    if growth > MAX_GROWTH:
        where = "decoder" if growth == growths["decoder"] else "normalizer and pre_tokenizer"
        raise TokenizerError(f"{where} can make a text {shown(growth)} times as long; the limit is {MAX_GROWTH}")
    _check_added_tokens(content.get("added_tokens"))
    _check_model(content.get("model"))


def _parts(section: object, place: str, nested: str) -> Iterator[tuple[str, object]]:
    """The parts of a section with their places, those of sequences one by one."""
    pending = [] if section is None else [(place, section)]
    while pending:
        place, part = pending.pop()
        if isinstance(part, dict) and part.get("type") == "Sequence":
            if set(part) != {"type", nested} or not isinstance(part[nested], list):
                raise TokenizerError(f"{place} is a Sequence without a list of {nested}, or with more")
            pending += [(f"{place}.{nested}[{index}]", item) for index, item in enumerate(part[nested])]
        else:
            yield place, part


def _check_part(part: object, place: str, kinds: _Kinds) -> int:
    """The factor by which the part can make a text longer."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in kinds:
        raise TokenizerError(f"{place} has the type {shown(kind)}; it must be one of Sequence, {', '.join(kinds)}")
    keys, growth = kinds[kind]
    _check_keys(part, place, keys)
    for key in keys & {"start", "stop"}:
        if not isinstance(part.get(key), int) or not 0 <= part[key] <= _MAX_AFFIX:
            raise TokenizerError(f"{place}.{key} is {shown(part.get(key))}; it must be from 0 to {_MAX_AFFIX}")
    if "pattern" in keys:
        _check_pattern(part.get("pattern"), f"{place}.pattern")
    return growth(part)


def _check_keys(part: dict[str, Any], place: str, keys: frozenset[str]) -> None:
    unknown = sorted(part.keys() - keys - {"type"})
    if unknown:
        raise TokenizerError(f"{place} has the key {shown(unknown[0])}; a {part['type']} has {', '.join(sorted(keys))}")


def _check_pattern(pattern: object, place: str) -> None:
    kind, text = next(iter(pattern.items())) if isinstance(pattern, dict) and len(pattern) == 1 else (None, None)
    if kind not in ("String", "Regex") or not isinstance(text, str) or not text or len(text) > MAX_PATTERN:
        raise TokenizerError(
            f"{place} is {shown(pattern)}; it must be a String or Regex of 1 to {MAX_PATTERN} characters"
        )
    if kind == "Regex" and not is_linear(text):
        raise TokenizerError(
            f"{place} is {shown(text)}, which may backtrack for ever; what repeats without bound must be a single "
            "character or class that nothing required follows"
        )


def _check_added_tokens(tokens: object) -> None:
    if tokens is None:
        return
    if not isinstance(tokens, list) or len(tokens) > MAX_ADDED_TOKENS:
        raise TokenizerError(f"added_tokens is {_size(tokens)}; it must be a list of at most {MAX_ADDED_TOKENS}")
    for index, token in enumerate(tokens):
        token_id = token.get("id") if isinstance(token, dict) else None
        if not isinstance(token_id, int) or not 0 <= token_id <= MAX_ID:
            raise TokenizerError(f"added_tokens[{index}].id is {shown(token_id)}; it must be from 0 to {MAX_ID}")
        _check_token(token.get("content"), f"added_tokens[{index}].content")


def _check_token(token: object, place: str) -> int:
    if not isinstance(token, str) or len(token) > MAX_TOKEN_CHARACTERS:
        raise TokenizerError(
            f"{place} is {shown(token)}; it must be a string of at most {MAX_TOKEN_CHARACTERS} characters"
        )
    return len(token)


def _check_model(model: object) -> None:
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(kind, str) or kind not in _MODELS:
        raise TokenizerError(f"model has the type {shown(kind)}; it must be one of {', '.join(_MODELS)}")
    _check_keys(model, "model", _MODELS[kind])
    if model.get("dropout"):
        raise TokenizerError(
            f"model.dropout is {shown(model['dropout'])}, which makes encoding random; set it to null, as it is for "
            "training only"
        )
    longest = model.get("max_input_chars_per_word", 0)
    if not isinstance(longest, int) or not 0 <= longest <= _MAX_WORD:
        raise TokenizerError(f"model.max_input_chars_per_word is {shown(longest)}; the limit is {_MAX_WORD}")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(str(model.get(key) or "")) > _MAX_AFFIX:
            raise TokenizerError(f"model.{key} is {shown(model[key])}; the limit is {_MAX_AFFIX} characters")
    _check_vocabulary(model.get("vocab"))
    merges = model.get("merges", [])
    if not isinstance(merges, list) or len(merges) > MAX_MERGES:
        raise TokenizerError(f"model.merges is {_size(merges)}; it must be a list of at most {MAX_MERGES}")


def _check_vocabulary(vocabulary: object) -> None:
    if not isinstance(vocabulary, dict) or len(vocabulary) > MAX_TOKENS:
        raise TokenizerError(f"model.vocab is {_size(vocabulary)}; it must be an object of at most {MAX_TOKENS} tokens")
    num_characters = 0
    for token, token_id in vocabulary.items():
        num_characters += _check_token(token, "a token of model.vocab")
        if not isinstance(token_id, int) or not 0 <= token_id <= MAX_ID:
            raise TokenizerError(f"model.vocab[{shown(token)}] is {shown(token_id)}; it must be from 0 to {MAX_ID}")
    if num_characters > MAX_VOCABULARY_CHARACTERS:
        raise TokenizerError(
            f"model.vocab has {num_characters} characters in all; the limit is {MAX_VOCABULARY_CHARACTERS}"
        )


def _size(value: object) -> str:
    """A collection by its length, anything else as it is."""
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list | dict) else shown(value)
