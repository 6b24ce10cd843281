"""Which documents are for training and which are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from training.corpus.dedup import overlap
from training.corpus.sources import Source

Split = Literal["train", "val", "test"]

_NUM_CLASSES: Final = 1000
_TEST_CLASSES: Final = 15
_VALIDATION_CLASSES: Final = 10
_MIN_SHINGLES: Final = 5
_MAX_OVERLAP: Final = 0.10


@dataclass(slots=True)
class Entry:
    """A document of the corpus; `shingles` are checksums of its runs of 8 words."""

    source: Source
    id: str
    text: str
    shingles: list[int]
    split: Split


def split_of(source: str, document_id: str) -> Split:
    """The split, from a hash of the document's name alone: 1.5 % test, 1 % val. Austen's Persuasion is test whole."""
    if _is_held_out(source, document_id):
        return "test"
    digest = hashlib.sha1(f"{source}\0{document_id}".encode(), usedforsecurity=False).hexdigest()
    number = int(digest[:8], 16) % _NUM_CLASSES
    if number < _TEST_CLASSES:
        return "test"
    return "val" if number < _TEST_CLASSES + _VALIDATION_CLASSES else "train"


def move_overlapping(entries: Sequence[Entry]) -> int:
    """Move held-out documents that share over a tenth of their 8-word runs with training documents to training.

    Returns:
        The number of documents moved.
    """
    training = {shingle for entry in entries if entry.split == "train" for shingle in entry.shingles}
    num_moved = 0
    for entry in entries:
        if entry.split == "train" or _is_held_out(entry.source.name, entry.id):
            continue
        if len(entry.shingles) >= _MIN_SHINGLES and overlap(entry.shingles, training) > _MAX_OVERLAP:
            entry.split = "train"
            num_moved += 1
    return num_moved


def _is_held_out(source: str, document_id: str) -> bool:
    return source == "austen" and document_id.startswith("Persuasion/")
