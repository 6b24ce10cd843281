"""Files that appear under their name whole or not at all, and are on the disk when they do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from surelock.errors import JobError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it takes the place of `path` when the block ends without an error, else it is removed.

    Raises:
        JobError: it cannot be written.
    """
    # In the same folder, because renaming is atomic only within a file system.
    partial = path.with_name(path.name + ".partial")
    try:
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise JobError(
            f"{path} cannot be written: {error.strerror or error}; the journal is kept: make room and run the same "
            "command again"
        ) from None


def remove(path: Path) -> None:
    """Remove a file if it is there, for good."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
