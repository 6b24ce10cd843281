"""The World English Bible, from a module of SWORD."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from training.corpus.archives import members
from training.corpus.clean import is_prose, paragraph
from training.corpus.document import Document

# Offset, length and unpacked length of a block of the compressed text, which is a book.
_BLOCK: Final = struct.Struct("<III")
_MIN_PARAGRAPH: Final = 420


def read_bible(path: Path) -> Iterator[Document]:
    """One document a chapter, named `testament/book/chapter`."""
    files = {PurePosixPath(name).name: content for name, content in members(path, r"\.bz[sz]$")}
    for testament in ("ot", "nt"):
        text, blocks = files[f"{testament}.bzz"], files[f"{testament}.bzs"]
        for book, (offset, length, _) in enumerate(_BLOCK.iter_unpack(blocks)):
            markup = zlib.decompress(text[offset : offset + length]).decode(errors="replace") if length else ""
            for chapter, part in enumerate(markup.split("<chapter ")):
                yield Document(f"{testament}/{book}/{chapter}", chapter_paragraphs(part))


def chapter_paragraphs(markup: str) -> list[str]:
    """Prose of a chapter in OSIS markup, whose first tag has lost its name: whole sentences, 420 characters or more."""
    markup = re.sub(r"(?s)<note.*?</note>|<title.*?</title>|<rdg.*?</rdg>", " ", "<" + markup)
    markup = re.sub(r"</?(?:p|lg|l|div|milestone)\b[^>]*>", "\n", markup)
    markup = re.sub(r"<verse[^>]*>", " ", markup)
    lines = [paragraph(line) for line in re.sub(r"<[^>]*>", "", markup).split("\n")]
    paragraphs, run = [], ""
    for line in lines:
        if not re.search("[a-z]", line):
            continue
        run = f"{run} {line}" if run else line
        if len(run) > _MIN_PARAGRAPH and re.search(r"[.!?]['\"]*$", run):
            paragraphs.append(run)
            run = ""
    return [text for text in [*paragraphs, run] if is_prose(text)]
