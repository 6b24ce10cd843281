"""Paragraphs that came before, the same or nearly, are left out."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

_MIN_LENGTH: Final = 60
_RUN_LENGTH: Final = 8
# One run in four stands for all.
_SAMPLING: Final = 4
_MIN_SHINGLES: Final = 3
_MAX_SHARED: Final = 0.5


@dataclass(slots=True)
class Kept:
    """What is left of a document: paragraphs, and the shingles of those of 60 characters or more."""

    paragraphs: list[str] = field(default_factory=list)
    shingles: list[int] = field(default_factory=list)


class Deduplicator:
    """Remembers the paragraphs of every document it was shown; those of fewer than 60 characters are always kept."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._shingles: set[int] = set()

    def keep(self, paragraphs: Iterable[str], *, code: bool) -> Kept:
        """Leave out paragraphs equal to an earlier one, or more than half made of runs of 8 words of earlier documents.

        Equal are prose of the same letters and digits, and code of the same characters but for white space.
        """
        kept = Kept()
        for paragraph in paragraphs:
            if len(paragraph) >= _MIN_LENGTH:
                runs = shingles(paragraph)
                if self._is_repeated(paragraph, code) or self._is_alike(runs):
                    continue
                kept.shingles += runs
            kept.paragraphs.append(paragraph)
        self._shingles.update(kept.shingles)
        return kept

    def _is_repeated(self, paragraph: str, code: bool) -> bool:
        essence = re.sub(r"\s", "", paragraph) if code else re.sub(r"[^a-z0-9]", "", paragraph.lower())
        key = blake2b(essence.encode(), digest_size=16).digest()
        if key in self._seen:
            return True
        self._seen.add(key)
        return False

    def _is_alike(self, runs: list[int]) -> bool:
        return len(runs) >= _MIN_SHINGLES and overlap(runs, self._shingles) > _MAX_SHARED


def shingles(paragraph: str) -> list[int]:
    """Checksums of a quarter of the runs of 8 words in a paragraph, the same quarter wherever the run stands."""
    words = re.findall(r"[a-z0-9']+", paragraph.lower())
    runs = (words[start : start + _RUN_LENGTH] for start in range(len(words) - _RUN_LENGTH + 1))
    checksums = (zlib.crc32(" ".join(run).encode()) for run in runs)
    return [checksum for checksum in checksums if checksum % _SAMPLING == 0]


def overlap(runs: list[int], others: set[int]) -> float:
    """Share of a paragraph's or document's shingles, of which there are some, that are among others."""
    return sum(run in others for run in runs) / len(runs)
