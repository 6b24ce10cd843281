"""The text corpus that `training/corpus` builds: `<group>.<split>.jsonl.xz` files, one document a line."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Split = Literal["train", "val", "test"]

# Share of the text tokens each group gets.
GROUP_WEIGHTS: Final = {
    "prose": 0.28,
    "chat": 0.16,
    "wiki": 0.22,
    "docs": 0.15,
    "code": 0.09,
    "dict": 0.05,
    "verse": 0.05,
}


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its group, its source within the group, and its ASCII text."""

    group: str
    source: str
    text: str


def read_documents(corpus: Path, split: Split) -> Iterator[Document]:
    """The documents of `split`, group by group.

    Raises:
        FileNotFoundError: a group's file is missing; `training/corpus` builds them.
    """
    for group in GROUP_WEIGHTS:
        with lzma.open(corpus / f"{group}.{split}.jsonl.xz", "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                yield Document(group, record["source"], record["text"])
