r"""Which regular expressions a tokenizer may split text with: those whose time is linear in the text.

The engine backtracks, so that `(a+)+b` takes longer than anyone waits, and already `\s+b` has quadratic time. A pattern
is allowed if each of its alternatives is read once, because nothing that can fail follows what repeats without bound.
Of the published patterns only a few alternatives are not like that, and are known.
"""

from __future__ import annotations

import re
from typing import Final

MAX_PATTERN: Final = 1000
_MAX_REPEATS: Final = 16
# Bounded choices, such as an optional character, before something that can fail.
_MAX_CHOICES: Final = 2

_UPPER: Final = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
# What the first alternative of each reads in vain, the next ones consume. The longest comes first.
_KNOWN: Final = (
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\s*[\r\n]|\s+(?!\S)|\s+",
    r"\s+(?!\S)|\s+",
    *(f"{_UPPER}*{_LOWER}+{suffix}|{_UPPER}+{_LOWER}*{suffix}" for suffix in (_SUFFIX, "")),
)
_KNOWN_MARK: Final = "\0"

_PROPERTY: Final = r"\\[pP]\{\^?\w+\}"
_ESCAPE: Final = r"\\[sSdDwWrntvf]|\\[^\w\s\0]"
_CLASS: Final = rf"\[\^?(?:{_PROPERTY}|{_ESCAPE}|\[\^?(?:{_PROPERTY}|{_ESCAPE}|[^\[\]\\&\0])+\]|[^\[\]\\&\0]|&(?!&))+\]"
_CHARACTER: Final = rf"{_PROPERTY}|{_ESCAPE}|{_CLASS}|[^\\\[\](){{}}|*+?^$\0]"
_GROUP: Final = rf"\((?:\?i?:)?(?:{_CHARACTER})+(?:\|(?:{_CHARACTER})+)*\)"
_ELEMENT: Final = re.compile(
    rf"(?:(?P<one>{_CHARACTER})|(?P<group>{_GROUP})|(?P<place>[\^$]|\(\?[=!](?:{_CHARACTER})\)))"
    # A plus after it forbids to backtrack, which makes nothing slower.
    r"(?P<quantifier>[?*+]\+?|\{\d{1,3}(?:,\d{0,3})?\})?(?![?*+{])"
)


def is_linear(pattern: str) -> bool:
    """Whether a text is split at the pattern's matches in time linear in the text's length."""
    if len(pattern) > MAX_PATTERN or _KNOWN_MARK in pattern:
        return False
    for known in _KNOWN:
        pattern = pattern.replace(known, _KNOWN_MARK)
    position, alternative = 0, _Alternative()
    while position < len(pattern):
        if pattern[position] == "|":
            position, alternative = position + 1, _Alternative()
        elif pattern[position] == _KNOWN_MARK:
            # It is known as a whole alternative only.
            if pattern[position - 1 : position] not in ("", "|") or pattern[position + 1 : position + 2] not in (
                "",
                "|",
            ):
                return False
            position += 1
        else:
            element = _ELEMENT.match(pattern, position)
            if element is None or not alternative.add(element):
                return False
            position = element.end()
    return True


class _Alternative:
    """What was read of one alternative."""

    def __init__(self) -> None:
        self._is_unbounded = False
        self._num_choices = 0

    def add(self, element: re.Match[str]) -> bool:
        """Read an element; False if it makes the alternative slow."""
        quantifier = element["quantifier"] or "{1}"
        least, most = _bounds(quantifier)
        can_fail = least > 0 or element["place"] is not None
        if can_fail and (self._is_unbounded or self._num_choices > _MAX_CHOICES):
            return False
        if most is None:
            self._is_unbounded = True
            return element["one"] is not None and least <= _MAX_REPEATS
        self._num_choices += least != most or element["group"] is not None
        return most <= _MAX_REPEATS


def _bounds(quantifier: str) -> tuple[int, int | None]:
    if quantifier[0] != "{":
        return int(quantifier[0] == "+"), 1 if quantifier[0] == "?" else None
    least, comma, most = quantifier.strip("{}").partition(",")
    return int(least), int(most or least) if most or not comma else None
