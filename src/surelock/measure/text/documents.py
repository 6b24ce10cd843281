"""Documents of the held-out split, cut into passages in a fixed order that mixes the sources."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Final, TypeVar

import orjson

from surelock.errors import ParameterError, shown

Item = TypeVar("Item")

SPLITS: Final = {"test": Path(__file__).parent.parent / "data" / "text_test.jsonl.xz"}

# Long enough for a prompt of 64 tokens and 256 that follow, whatever the tokenizer.
_MIN_CHARACTERS: Final = 2_400


@dataclass(frozen=True, slots=True)
class Passage:
    """Consecutive paragraphs of a document.

    Attributes:
        key: source, document and place, unique in the split.
        document: source and document, the same for all its passages.
        licence: of the text.
    """

    key: str
    document: str
    source: str
    licence: str
    text: str


def in_turns(make: Callable[[Passage], Item | None], split: str = "test") -> Iterator[Item]:
    """What `make` makes of the passages: one of each document, then a second of each that has one, and so on.

    So as many items as there are documents depend on each other as little as the text allows. Within a round the
    sources take turns as long as they have documents. The order depends on nothing but the texts' names.

    Args:
        make: None for a passage that is of no use; the document's next one then takes its place.
        split: of the text inside the package.

    Raises:
        ParameterError: there is no such split.
    """
    if split not in SPLITS:
        raise ParameterError(f"split is {shown(split)}; the package holds {', '.join(SPLITS)}")
    of_sources: dict[str, list[list[Passage]]] = {}
    for line in lzma.decompress(SPLITS[split].read_bytes()).splitlines():
        document = orjson.loads(line)
        passages = sorted(_cut(document), key=lambda passage: _rank(passage.key))
        of_sources.setdefault(document["source"], []).append(passages)
    return _rounds([_by_name(of_sources[source]) for source in sorted(of_sources)], make)


def _by_name(documents: list[list[Passage]]) -> list[Iterator[Passage]]:
    """Documents of a source in an order that has nothing to do with how long they are."""
    return [iter(passages) for passages in sorted(documents, key=lambda passages: _rank(passages[0].document))]


def _rounds(sources: list[list[Iterator[Passage]]], make: Callable[[Passage], Item | None]) -> Iterator[Item]:
    def of_source(documents: list[Iterator[Passage]]) -> Iterator[Item]:
        for passages in documents:
            item = next((item for passage in passages if (item := make(passage)) is not None), None)
            if item is not None:
                yield item

    found = True
    while found:
        found = False
        for item in chain.from_iterable(zip_longest(*map(of_source, sources))):
            if item is not None:
                found = True
                yield item


def _cut(document: dict[str, str]) -> Iterator[Passage]:
    paragraphs: list[str] = []
    num_passages = num_characters = 0
    lines = document["text"].splitlines(keepends=True)
    for number, paragraph in enumerate(lines, start=1):
        paragraphs.append(paragraph)
        num_characters += len(paragraph)
        if num_characters >= _MIN_CHARACTERS or number == len(lines):
            name = f"{document['source']}/{document['id']}"
            text = "".join(paragraphs).strip()
            yield Passage(f"{name}/{num_passages}", name, document["source"], document["licence"], text)
            paragraphs, num_characters, num_passages = [], 0, num_passages + 1


def _rank(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
