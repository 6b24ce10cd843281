"""Paths of the files that a command writes, checked before it runs."""

from __future__ import annotations

import os
from pathlib import Path

from surelock.errors import ParameterError


def check_distinct(**paths: Path | None) -> None:
    """Refuse two options that name one file.

    Raises:
        ParameterError: naming both options.
    """
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        option = f"--{name.replace('_', '-')}"
        if path is not None and (other := seen.setdefault(path.resolve(), option)) != option:
            raise ParameterError(f"{other} and {option} both name {path}; choose another path for {option}")


def check_writable(option: str, path: Path) -> None:
    """Refuse a path no new file can take.

    Raises:
        ParameterError: its folder is missing or read-only, or it is something other than a file.
    """
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ParameterError(f"{option} {path} cannot be written: the folder {folder} does not exist; create it first")
    if path.exists() and not path.is_file():
        raise ParameterError(f"{option} {path} cannot be written: it exists and is not a regular file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ParameterError(f"{option} {path} cannot be written: no permission to write in {folder}")
