"""The folder that results are written to, checked before anything is measured."""

from __future__ import annotations

from pathlib import Path

from surelock.errors import ParameterError


def check_folder(folder: Path) -> None:
    """Make the folder.

    Raises:
        ParameterError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".surelock"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ParameterError(f"--out {folder} cannot be written: {error.strerror}") from None
