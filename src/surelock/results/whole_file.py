"""Files that take the place of older ones whole or not at all, also if the machine stops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

PARTIAL: Final = ".partial"


@contextmanager
def replacing(path: Path, suffix: str = PARTIAL) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` if the block ends without an error, and else is removed.

    Args:
        suffix: of its name until then. One that a process left behind when it was killed is written anew.
    """
    # In the same folder, because renaming is atomic only within a file system.
    partial = path.with_name(path.name + suffix)
    try:
        # A link that another user put there is not followed.
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, or leave what is there and raise OSError. Several processes may do so at the same time."""
    with replacing(path, f".{os.getpid()}{PARTIAL}") as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where a folder can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
