"""A package of a public registry, pinned, and what may be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class PackageError(Exception):
    """A package cannot be had, or is not what it should be; the message is one line."""


@dataclass(frozen=True, slots=True)
class Package:
    """One file of a registry: what its ordinary client asks for, and the file that must come of it."""

    registry: Literal["pypi", "npm", "debian"]
    name: str
    version: str
    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The package and version in the words of the registry's client."""
        return self.name + {"pypi": "==", "npm": "@", "debian": "="}[self.registry] + self.version
