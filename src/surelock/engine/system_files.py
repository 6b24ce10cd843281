"""What an operating system says about itself in files: `/proc`, control groups."""

from __future__ import annotations

from pathlib import Path


def system_text(path: Path) -> str:
    """The text of a system file, empty if it is not there."""
    try:
        return path.read_text()
    except OSError:
        return ""
