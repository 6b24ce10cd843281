"""Jane Austen's six novels, from the data of R's package janeaustenr."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from training.corpus.archives import member
from training.corpus.clean import prose_paragraphs
from training.corpus.document import Document
from training.corpus.package import PackageError

_CHAPTER: Final = re.compile(r"(?im)^ *(?:chapter|volume) [ivxlc0-9]+\.?.*$")

# "X\n": R's XDR serialization. Then version, R's version and the oldest that reads it (int32 each), and the length of
# the name of the encoding.
_HEADER: Final = struct.Struct(">2siiii")
_STRINGS, _STRING = 16, 9


def read_austen(path: Path) -> Iterator[Document]:
    """One document a chapter, named `Title/number`."""
    for lines in _novels(member(path, r"data/Rdata\.rdb$")):
        novel = "\n".join(lines)
        title = novel.strip().split("\n")[0].strip().title()
        for number, chapter in enumerate(_CHAPTER.split(novel)):
            yield Document(f"{title}/{number:03d}", prose_paragraphs(chapter.replace("_", "")))


def _novels(database: bytes) -> Iterator[list[str]]:
    """Values of a lazy-load database: for each its length (uint32), then a zlib stream."""
    while database:
        decompressor = zlib.decompressobj()
        yield _strings(decompressor.decompress(database[4:]))
        database = decompressor.unused_data


def _strings(value: bytes) -> list[str]:
    """A character vector (R Internals, section 1.8: version 3 of the format)."""
    magic, _, _, _, name_length = _HEADER.unpack_from(value)
    offset = _HEADER.size + name_length
    flags, num_strings = struct.unpack_from(">ii", value, offset)
    if magic != b"X\n" or flags & 0xFF != _STRINGS:
        raise PackageError("a value of Rdata.rdb is not a character vector")
    offset += 8
    strings = []
    for _ in range(num_strings):
        flags, length = struct.unpack_from(">ii", value, offset)
        if flags & 0xFF != _STRING or length < 0:
            raise PackageError("a character vector of Rdata.rdb holds a missing string")
        offset += 8
        strings.append(value[offset : offset + length].decode())
        offset += length
    return strings
