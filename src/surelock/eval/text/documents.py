"""Documents of the held-out split, cut into passages in a fixed order that mixes the sources."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Final

import orjson

from surelock.errors import ParameterError, shown

SPLITS: Final = {"test": Path(__file__).parent.parent / "data" / "text_test.jsonl.xz"}

# Long enough for a prompt of 64 tokens and 256 that follow, whatever the tokenizer.
_MIN_CHARACTERS: Final = 2_400


@dataclass(frozen=True, slots=True)
class Passage:
    """Consecutive paragraphs of a document.

    Attributes:
        key: source, document and place, unique in the split.
        licence: of the text.
    """

    key: str
    source: str
    licence: str
    text: str


def load_passages(split: str = "test") -> list[Passage]:
    """Passages of at least 2,400 characters (the last of a document may be shorter), the sources taking turns.

    The order depends on nothing but the texts' names.

    Raises:
        ParameterError: there is no such split.
    """
    if split not in SPLITS:
        raise ParameterError(f"split is {shown(split)}; the package holds {', '.join(SPLITS)}")
    by_source: dict[str, list[Passage]] = {}
    for line in lzma.decompress(SPLITS[split].read_bytes()).splitlines():
        for passage in _cut(orjson.loads(line)):
            by_source.setdefault(passage.source, []).append(passage)
    rounds = zip_longest(*(sorted(by_source[source], key=_rank) for source in sorted(by_source)))
    return [passage for passage in chain.from_iterable(rounds) if passage is not None]


def _cut(document: dict[str, str]) -> Iterator[Passage]:
    paragraphs: list[str] = []
    num_passages = num_characters = 0
    lines = document["text"].splitlines(keepends=True)
    for number, paragraph in enumerate(lines, start=1):
        paragraphs.append(paragraph)
        num_characters += len(paragraph)
        if num_characters >= _MIN_CHARACTERS or number == len(lines):
            key = f"{document['source']}/{document['id']}/{num_passages}"
            yield Passage(key, document["source"], document["licence"], "".join(paragraphs).strip())
            paragraphs, num_characters, num_passages = [], 0, num_passages + 1


def _rank(passage: Passage) -> bytes:
    return hashlib.sha256(passage.key.encode()).digest()
