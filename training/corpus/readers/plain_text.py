"""Plain text files: a novel by chapter, and speeches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from training.corpus.archives import members
from training.corpus.clean import prose_paragraphs
from training.corpus.document import Document

# A speech of fewer paragraphs was stored without its paragraphs.
_MIN_PARAGRAPHS: Final = 4
_RUN_LENGTH: Final = 500


def read_moby_dick(path: Path) -> Iterator[Document]:
    """One document a chapter, named by its file."""
    for name, content in sorted(members(path, r"data/(chapter_\d+|epilogue)\.txt$")):
        yield Document(PurePosixPath(name).name, prose_paragraphs(content.decode().replace("_", "")))


def read_speeches(path: Path) -> Iterator[Document]:
    """One document a speech, named by its file."""
    for name, content in sorted(members(path, r"data/\d+.*\.txt$")):
        paragraphs = prose_paragraphs(content.decode(errors="replace"))
        if len(paragraphs) < _MIN_PARAGRAPHS:
            paragraphs = sentence_runs(" ".join(paragraphs), _RUN_LENGTH)
        yield Document(PurePosixPath(name).name, paragraphs)


def sentence_runs(text: str, length: int) -> list[str]:
    """Runs of whole sentences, each the shortest that is longer than `length` characters; the last may be shorter."""
    runs, run = [], ""
    for sentence in re.split(r"(?<=[.!?]) +(?=[A-Z])", text):
        run = f"{run} {sentence}" if run else sentence
        if len(run) > length:
            runs.append(run)
            run = ""
    return [*runs, run] if run else runs
