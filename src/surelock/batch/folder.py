"""The folder of a job beside its output, its lock against a second process, and how files are written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from surelock.errors import JobBusyError, JobError, ParameterError, shown
from surelock.results import whole_file
from surelock.results.whole_file import PARTIAL, sync_folder

# Of one name on every common file system.
MAX_NAME_BYTES: Final = 255
ERRORS: Final = ".errors.jsonl"


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Where a job keeps what it knows.

    Attributes:
        output: of the job, links followed, so that two names of one file are one job.
    """

    output: Path

    @classmethod
    def of(cls, output: Path) -> JobFolder:
        """The folder of the job that writes `output`.

        Raises:
            ParameterError: the output is a link to itself, or its name leaves no room for the names beside it.
        """
        try:
            folder = cls(output.resolve())
        except (OSError, RuntimeError):
            folder = cls(output.absolute())
        if folder.output.is_symlink():
            raise ParameterError(f"--output {output} is a link that leads back to itself; remove it")
        size = len(os.fsencode(folder.errors.name + PARTIAL))
        if size > MAX_NAME_BYTES:
            raise ParameterError(
                f"--output {shown(output.name)} is too long a name: with what a job adds it has {size} bytes, and the "
                f"limit is {MAX_NAME_BYTES}; shorten it"
            )
        return folder

    @property
    def path(self) -> Path:
        """OUT.surelock."""
        return self.output.with_name(self.output.name + ".surelock")

    @property
    def errors(self) -> Path:
        """OUT.errors.jsonl: the rows that failed. Beside out.jsonl and out.csv these are two files."""
        is_lines = self.output.suffix == ".jsonl"
        return self.output.with_name((self.output.stem if is_lines else self.output.name) + ERRORS)

    @property
    def manifest(self) -> Path:
        """What the job is."""
        return self.path / "manifest.json"

    @property
    def journal(self) -> Path:
        """What has been done."""
        return self.path / "rows.journal"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if need be and keep other processes out, until the block or the process ends.

        Raises:
            JobBusyError: another process is in it.
            JobError: it cannot be created or locked.
        """
        try:
            is_new = not self.path.exists()
            self.path.mkdir(exist_ok=True)
            descriptor = _lock(self.path / "lock")
            if is_new:
                sync_folder(self.path.parent)
        except BlockingIOError:
            raise JobBusyError(
                f"another process works on {self.output} (it holds {self.path / 'lock'}); wait for it or stop it"
            ) from None
        except OSError as error:
            raise JobError(f"{self.path} cannot be created: {error.strerror}") from None
        try:
            yield
        finally:
            self._remove_if_unused()
            os.close(descriptor)

    def clear(self) -> None:
        """Forget what has been done. Only under the lock."""
        # The manifest first: a journal without one is not used.
        remove(self.manifest)
        remove(self.journal)

    def _remove_if_unused(self) -> None:
        """A job that never began leaves nothing behind."""
        if not self.manifest.exists():
            self.journal.unlink(missing_ok=True)
            (self.path / "lock").unlink(missing_ok=True)
            with suppress(OSError):
                self.path.rmdir()


def _lock(path: Path) -> int:
    """A descriptor that holds the lock; the system lets go of it when the process ends, however it does.

    Raises:
        BlockingIOError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        raise JobError("batch jobs need a system with flock, such as Linux or macOS") from None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one that had it may have removed the file in between.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """As `whole_file.replacing`, for files of a job: raises JobError if one cannot be written."""
    try:
        with whole_file.replacing(path) as file:
            yield file
    except OSError as error:
        raise JobError(
            f"{path} cannot be written: {error.strerror or error}; the journal is kept: make room and run the same "
            "command again"
        ) from None


def remove(path: Path) -> None:
    """Remove a file if it is there, for good."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def open_regular(path: Path) -> BinaryIO:
    """Open a file to be read. A pipe or device, which could be read for ever, is refused with JobError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        check_regular(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def check_regular(descriptor: int, path: Path) -> None:
    """Raise JobError if an open file is none that ends."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise JobError(f"{path} is not a regular file, so the job cannot go on; remove it")
