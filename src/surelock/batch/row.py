"""`Row`, one line of work with an identity of its own, and the seed that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the input file.

    Attributes:
        number: counts the rows of the file from 1.
        digest: 8 bytes of a hash of the row's content as an integer.
        start: where reading may begin again to find this row first.
        values: what it says; empty if it could not be read.
        fault: why it could not be read, else None.
    """

    number: int
    digest: int
    start: int
    values: Mapping[str, Any]
    fault: str | None = None

    @property
    def identity(self) -> str:
        """32 hex digits that depend on the row's number and content, and on nothing else."""
        return f"{self.number:016x}{self.digest:016x}"

    def seed(self, job_seed: int) -> int:
        """Of the row's noise: 0 to 2**63 - 1, from the seed of the job and the row's identity."""
        return digest_of(f"{job_seed}:{self.identity}".encode()) >> 1


def digest_of(content: bytes) -> int:
    """64 bits of a hash."""
    return int.from_bytes(blake2b(content, digest_size=8).digest())
