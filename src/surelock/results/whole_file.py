"""Files that take the place of older ones whole or not at all. `batch.atomic` also waits for the disk."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, or leave what is there.

    Raises:
        OSError: it cannot be written.
    """
    # In the same folder, because renaming is atomic only within a file system.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
