"""Manuals in HTML, and in the XML of GNOME's help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Final

from training.corpus.archives import members
from training.corpus.clean import is_prose, paragraph
from training.corpus.document import Document, Reader

# Elements that begin and end a paragraph.
_BLOCK_TAGS: Final = (
    "p li dd dt h1 h2 h3 h4 div section title td th tr table ul ol dl item note br blockquote body steps page"
)
# Elements left out with all that is in them: code, tables, menus, and what is said about the page.
_SKIPPED_TAGS: Final = (
    "script style pre nav table head header footer svg math code-block screen aside info credit license button select "
    "desc"
)
_BLOCKS: Final = frozenset(_BLOCK_TAGS.split())
_SKIPPED: Final = frozenset(_SKIPPED_TAGS.split())
_MIN_LENGTH: Final = 40


def web_pages(pages: str, *, body: str | None = None, min_paragraphs: int = 3) -> Reader:
    """A reader of the pages whose name matches `pages`, one document each, named by its path below `/doc/`.

    Args:
        pages: pattern of file names.
        body: pattern whose first group is the part of a page to read; a page it does not match is read whole.
        min_paragraphs: a page with fewer is left out.
    """

    def read(path: Path) -> Iterator[Document]:
        for name, content in members(path, pages):
            paragraphs = page_paragraphs(content.decode(errors="replace"), body)
            if len(paragraphs) >= min_paragraphs:
                yield Document(str(PurePosixPath(name)).split("/doc/")[-1], paragraphs)

    return read


def page_paragraphs(page: str, body: str | None = None) -> list[str]:
    """Paragraphs, list items and definitions of a page that are prose and end as a sentence does."""
    match = re.search(body, page, re.DOTALL) if body else None
    parser = _BlockParser()
    parser.feed(match.group(1) if match else page)
    parser.end_block()
    # Sphinx ends a heading with a pilcrow.
    paragraphs = [paragraph(block.replace("\u00b6", "")) for block in parser.blocks]
    return [text for text in paragraphs if is_prose(text, min_length=_MIN_LENGTH) and re.search(r"[.:!?]\"?\)?$", text)]


class _BlockParser(HTMLParser):
    """Collects the text of blocks outside skipped elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self._parts: list[str] = []
        self._num_skipped = 0

    def end_block(self) -> None:
        """Take what was read since the last block as a block."""
        text = re.sub(r"\s+", " ", "".join(self._parts)).strip()
        if text:
            self.blocks.append(text)
        self._parts = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._num_skipped += 1
        if tag in _BLOCKS:
            self.end_block()

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED and self._num_skipped:
            self._num_skipped -= 1
        if tag in _BLOCKS:
            self.end_block()

    def handle_data(self, data: str) -> None:
        if not self._num_skipped:
            self._parts.append(data)
