"""Files inside wheels, npm packages and Debian packages, read in memory: nothing is unpacked to the disk."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zipfile import ZipFile

from training.corpus.package import PackageError

# The ar format of a .deb: a signature, then members of a 60-byte header and data padded to an even length.
_AR_SIGNATURE: Final = b"!<arch>\n"
_AR_HEADER_SIZE: Final = 60


def members(path: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the regular files whose name matches `pattern` anywhere, in the archive's order.

    Raises:
        PackageError: the file is not a .whl, .tgz or .deb.
    """
    wanted = re.compile(pattern)
    if path.suffix == ".whl":
        with ZipFile(path) as archive:
            for name in archive.namelist():
                if wanted.search(name):
                    yield name, archive.read(name)
    elif path.suffix == ".tgz":
        with tarfile.open(path) as archive:
            yield from _tar_members(archive, wanted)
    elif path.suffix == ".deb":
        with tarfile.open(fileobj=io.BytesIO(_debian_data(path.read_bytes(), path))) as archive:
            yield from _tar_members(archive, wanted)
    else:
        raise PackageError(f"{path} is not a .whl, .tgz or .deb")


def member(path: Path, pattern: str) -> bytes:
    """Content of the one file that matches.

    Raises:
        PackageError: none matches, or several do.
    """
    found = list(members(path, pattern))
    if len(found) != 1:
        raise PackageError(f"{path} has {len(found)} files that match {pattern}, not 1")
    return found[0][1]


def _tar_members(archive: tarfile.TarFile, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    for entry in archive:
        if entry.isfile() and wanted.search(entry.name):
            file = archive.extractfile(entry)
            assert file is not None
            yield entry.name, file.read()


def _debian_data(deb: bytes, path: Path) -> bytes:
    """The compressed tar file `data.tar.*` of a Debian package (deb(5))."""
    offset = len(_AR_SIGNATURE)
    while deb.startswith(_AR_SIGNATURE) and offset < len(deb):
        header = deb[offset : offset + _AR_HEADER_SIZE]
        size = int(header[48:58])
        offset += _AR_HEADER_SIZE
        if header.startswith(b"data.tar"):
            return deb[offset : offset + size]
        offset += size + size % 2
    raise PackageError(f"{path} is not a Debian package")
