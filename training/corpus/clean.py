"""Text to plain ASCII English, and what is left out on the way."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Final

# What Unicode's own decompositions do not bring to ASCII, or not well.
_REPLACED: Final = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2013\u2212\u2022", "-"),
        **dict.fromkeys("\u2014\u2015", " - "),
        **dict.fromkeys("\u00a0\u2002\u2003\u2009", " "),
        # Zero-width space, soft hyphen, byte order mark.
        **dict.fromkeys("\u200b\u00ad\ufeff", ""),
        "\u2026": "...",
        "\u00d7": "x",
        "\u00bd": " 1/2",
        "\u00bc": " 1/4",
        "\u00be": " 3/4",
        "\u2153": " 1/3",
        "\u2154": " 2/3",
        "\u215b": " 1/8",
        "\u2044": "/",
        "\u00b0": " degrees ",
        "\u00c6": "AE",
        "\u00e6": "ae",
        "\u0152": "OE",
        "\u0153": "oe",
        "\u00df": "ss",
        "\u00f8": "o",
        "\u00d8": "O",
        "\u2192": "->",
        "\u20ac": "EUR ",
        "\u00a3": "GBP ",
    }
)
_MAX_FOREIGN: Final = 0.02
_MIN_LETTERS: Final = 0.82
_MEAN_WORD_LENGTH: Final = (2.5, 9.0)

# A URL, an e-mail address or a North American telephone number.
_CONTACT: Final = re.compile(r"https?://|www\.|\S+@\S+\.\S+|\b\d{3}[-.) ]+\d{3}[-. ]\d{4}\b")
_INDECENT: Final = re.compile(
    r"\b(f+u+c+k\w*|sh[i1]t\w*|bitch\w*|cunt\w*|n[i1]gg\w*|fag\w*|dick|cock|porn\w*|sex\w*|rape\w*|slut\w*|whore\w*|"
    r"asshole|penis|vagina|boob\w*|nazi\w*|hitler|suicid\w*|kill (my|your)self|kys|wtf|stfu|retard\w*)\b",
    re.IGNORECASE,
)


def fold(text: str) -> str:
    """Typographic signs to their ASCII spelling, letters without their accents; other scripts stay as they are."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_REPLACED)).translate(_REPLACED)
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def paragraph(text: str) -> str:
    """One paragraph in ASCII with single spaces, HTML entities resolved; empty if over 2 % of it is not ASCII."""
    text = fold(html.unescape(text))
    num_foreign = sum(ord(character) > 126 for character in text)
    if num_foreign > _MAX_FOREIGN * max(1, len(text)):
        return ""
    text = "".join(character if 32 <= ord(character) < 127 else " " for character in text)
    text = re.sub(r"\s+", " ", text)
    # What is left of a bracket whose content was dropped.
    text = re.sub(r"\( *\)|\[ *\]", "", text)
    text = re.sub(r" +([,.;:!?])", r"\1", text)
    return re.sub(r" {2,}", " ", text).strip()


def is_prose(text: str, *, min_length: int = 25) -> bool:
    """Whether a clean paragraph reads as sentences: mostly letters, words of ordinary length, no address in it."""
    if len(text) < min_length:
        return False
    num_letters = sum(character.isalpha() or character == " " for character in text)
    if num_letters < _MIN_LETTERS * len(text):
        return False
    words = text.split()
    shortest, longest = _MEAN_WORD_LENGTH
    return shortest <= sum(map(len, words)) / len(words) <= longest and not has_contact(text)


def has_contact(text: str) -> bool:
    """Whether a URL, e-mail address or telephone number is in the text."""
    return _CONTACT.search(text) is not None


def is_indecent(text: str) -> bool:
    """Whether a slur, an obscenity or a word of sex or suicide is in the text; some harmless ones are among them."""
    return _INDECENT.search(text) is not None


def unwrap(text: str) -> list[str]:
    """Paragraphs of a text with hard line breaks: blank lines part them, other breaks become spaces."""
    return [re.sub(r"\s*\n\s*", " ", block).strip() for block in re.split(r"\n\s*\n", text.replace("\r", ""))]


def prose_paragraphs(text: str) -> list[str]:
    """The clean prose paragraphs of a text with hard line breaks."""
    return [clean for clean in map(paragraph, unwrap(text)) if is_prose(clean)]
