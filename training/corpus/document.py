"""What a reader makes of a package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Document:
    """A chapter, page, chat or file; its paragraphs are clean ASCII (of code: whole functions and classes)."""

    id: str
    paragraphs: Sequence[str]


# From the file of a package, in the file's own order.
Reader = Callable[[Path], Iterator[Document]]
