from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from tests.training.corpus.packages import write_package
from training.corpus.document import Document
from training.corpus.package import PackageError
from training.corpus.readers.austen import read_austen

CHARACTER_VECTOR, STRING = 16, 9
ASCII, UTF8 = 0x40000, 0x8000


def serialized(lines: list[str], kind: int = CHARACTER_VECTOR) -> bytes:
    value = b"X\n" + struct.pack(">iiii", 3, 0x40201, 0x30500, 5) + b"UTF-8" + struct.pack(">ii", kind, len(lines))
    for line in lines:
        content = line.encode()
        value += struct.pack(">ii", STRING | (ASCII if line.isascii() else UTF8), len(content)) + content
    return struct.pack(">I", len(value)) + zlib.compress(value)


def read(folder: Path, database: bytes) -> list[Document]:
    return list(read_austen(write_package(folder / "r.deb", {"./usr/data/Rdata.rdb": database})))


def test_chapters_of_novels(tmp_path: Path) -> None:
    novel = ["EMMA", "", "By Jane Austen", "", "CHAPTER I", "", "Emma Woodhouse, _handsome_, clever,", "and rich, with"]
    novel += ["\u00a320,000 a year.", "", "", "Chapter II.", "", "Mr. Weston was a native of Highbury."]
    assert read(tmp_path, serialized(novel) + serialized(["PERSUASION", "A baronet of Kellynch Hall."])) == [
        Document("Emma/000", []),
        Document("Emma/001", ["Emma Woodhouse, handsome, clever, and rich, with GBP 20,000 a year."]),
        Document("Emma/002", ["Mr. Weston was a native of Highbury."]),
        Document("Persuasion/000", ["PERSUASION A baronet of Kellynch Hall."]),
    ]


def test_a_value_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="not a character vector"):
        read(tmp_path, serialized(["EMMA"], kind=19))
