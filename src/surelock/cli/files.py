"""Output files that appear under their name only when complete."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from surelock.errors import ParameterError


class PartialFile:
    """A binary file written as NAME.partial and renamed to NAME when its `with` block ends without an error.

    Opened at once, so a path that cannot be written is found before the model runs. After an error the partial file
    stays, unless `keep_partial` is false.

    Raises:
        ParameterError: the path cannot be written; the message names `option`.
    """

    def __init__(self, option: str, path: Path, *, keep_partial: bool = False) -> None:
        check_writable(option, path)
        self.path = path
        # A link keeps pointing at the file it names.
        self._final = path.resolve()
        self.partial_path = self._final.with_name(self._final.name + ".partial")
        self._keep_partial = keep_partial
        try:
            self.file: BinaryIO = self.partial_path.open("wb")
        except OSError as error:
            raise ParameterError(f"{option} {path} cannot be written: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.file.close()
        if kind is None:
            self.partial_path.replace(self._final)
        elif not self._keep_partial:
            self.partial_path.unlink(missing_ok=True)


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
