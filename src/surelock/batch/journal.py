"""An append-only file of records that can be cut at any byte, or end at any byte when the machine stops.

A record is one line: CRC-32 of the payload in 8 hex digits, its length in bytes, the payload (JSON), a line feed. What
follows the last whole record is not there. Each record is handed to the operating system before the next row is taken
in, so killing the process loses nothing; it is forced to the disk after 64 records or a second, so a crash of the whole
machine loses at most these, and they run again.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self
from zlib import crc32

import orjson
from pydantic import TypeAdapter, ValidationError

from surelock.batch.folder import check_regular, open_regular, replacing
from surelock.batch.progress import Totals
from surelock.batch.records import Record
from surelock.errors import JobError

RECORDS_PER_SYNC: Final = 64
SECONDS_PER_SYNC: Final = 1.0
# Of a line. A text is bounded by its canvas; what is longer was not written here, and must not fill the memory.
MAX_RECORD_BYTES: Final = 1 << 28
_NOWHERE: Final = -1
_RECORD: Final = TypeAdapter(Record)
# Where there is no fdatasync.
_sync: Final = getattr(os, "fdatasync", os.fsync)


class Journal:
    """The records of a job by row, at most one of each. Closes when its `with` block ends.

    Opening cuts off what is not whole. Records of other rows than those of `digests` are not there either.

    Args:
        digests: of the rows of the input file.

    Attributes:
        totals: of the records in it.
        num_bytes_dropped: that opening cut off.

    Raises:
        JobError: the file cannot be opened or read.
    """

    def __init__(self, path: Path, digests: array[int]) -> None:
        self.path = path
        self._digests = digests
        self._starts = array("q", [_NOWHERE]) * len(digests)
        self._end = 0
        self.totals = Totals()
        try:
            # Opening a pipe must not wait for its other end.
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise JobError(f"the journal {path} cannot be opened: {error.strerror}") from None
        try:
            check_regular(self._descriptor, path)
            size = os.fstat(self._descriptor).st_size
            self._recover()
            self.num_bytes_dropped = size - self._end
            os.ftruncate(self._descriptor, self._end)
        except BaseException as error:
            os.close(self._descriptor)
            if isinstance(error, OSError):
                raise JobError(f"the journal {path} cannot be read: {error.strerror}") from None
            raise
        self._num_unsynced = 0
        self._synced_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.sync()
        except JobError:
            # An error that is on its way is not replaced by this one.
            if kind is None:
                raise
        finally:
            os.close(self._descriptor)

    def __contains__(self, number: int) -> bool:
        return self._starts[number - 1] != _NOWHERE

    @property
    def num_left(self) -> int:
        """Rows without a record."""
        return len(self._digests) - self.totals.num_done

    def append(self, record: Record) -> None:
        """Add the record of a row, or raise JobError and add nothing of it. A second one of the same row is ignored."""
        if record.number in self:
            return
        line = encode(record)
        try:
            _write_all(self._descriptor, line, self._end)
        except OSError as error:
            # Where even this fails, opening cuts off what is not whole.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise self._error(error) from None
        self._take_in(record, self._end)
        self._end += len(line)
        self._num_unsynced += 1
        if self._num_unsynced >= RECORDS_PER_SYNC or time.monotonic() - self._synced_at >= SECONDS_PER_SYNC:
            self.sync()

    def sync(self) -> None:
        """Force what was appended to the disk; JobError if the disk refuses."""
        if self._num_unsynced:
            try:
                _sync(self._descriptor)
            except OSError as error:
                raise self._error(error) from None
        self._num_unsynced = 0
        self._synced_at = time.monotonic()

    def records(self) -> Iterator[Record]:
        """The records in the order of the rows; JobError if one cannot be read any more."""
        with self.path.open("rb") as file:
            for start in self._starts:
                if start == _NOWHERE:
                    continue
                file.seek(start)
                record = decode(file.readline(MAX_RECORD_BYTES))
                if record is None:
                    raise JobError(f"the journal {self.path} changed while the job ran; run the same command again")
                yield record

    def _recover(self) -> None:
        with open(self._descriptor, "rb", closefd=False) as file:
            for start, end, record in read_records(file, self.path):
                is_known = 1 <= record.number <= len(self._digests)
                if is_known and record.digest == self._digests[record.number - 1] and record.number not in self:
                    self._take_in(record, start)
                self._end = end

    def _take_in(self, record: Record, start: int) -> None:
        self._starts[record.number - 1] = start
        totals = self.totals
        self.totals = Totals(
            num_done=totals.num_done + 1,
            num_failed=totals.num_failed + record.failed,
            num_tokens=totals.num_tokens + record.num_tokens,
            flops_locked=totals.flops_locked + record.flops[0],
            flops_base=totals.flops_base + record.flops[1],
        )

    def _error(self, error: OSError) -> JobError:
        return JobError(
            f"the journal {self.path} cannot be written: {error.strerror}; {self.totals.num_done} rows are done and "
            "kept: make room and run the same command again"
        )


def encode(record: Record) -> bytes:
    """The record as its line."""
    payload = orjson.dumps(asdict(record))
    return b"%08x %d %b\n" % (crc32(payload), len(payload), payload)


def decode(line: bytes) -> Record | None:
    """The record of a line; None if the line is not whole. ValidationError if it is whole and no record."""
    checksum, _, rest = line.partition(b" ")
    length, _, payload = rest.partition(b" ")
    if not payload.endswith(b"\n") or not length.isdigit() or len(length) > 12 or int(length) != len(payload) - 1:
        return None
    payload = payload[:-1]
    # Nothing at all has the checksum 0, and is no record.
    if not payload or checksum != b"%08x" % crc32(payload):
        return None
    return _RECORD.validate_json(payload)


def read_records(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, Record]]:
    """(where it starts, where it ends, record) of each, up to the first that is not whole.

    Raises:
        JobError: one is whole and no record; `path` is for the message.
    """
    start = 0
    while line := file.readline(MAX_RECORD_BYTES):
        try:
            record = decode(line)
        except ValidationError as error:
            field, problem = ".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"]
            raise JobError(
                f"the journal {path} holds what is no record of this version at byte {start} ({field}: {problem}); "
                "start over with --force-new"
            ) from None
        if record is None:
            return
        yield start, start + len(line), record
        start += len(line)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        num_written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[num_written:], offset + num_written


def has_answers(path: Path) -> bool:
    """Whether a journal holds a row that did not fail; JobError if it cannot be read."""
    try:
        with open_regular(path) as file:
            return any(not record.failed for _, _, record in read_records(file, path))
    except OSError as error:
        raise JobError(f"the journal {path} cannot be read: {error.strerror}") from None


def drop_failed(path: Path) -> None:
    """Rewrite a journal without the rows that failed, so that they run again; JobError if that is not possible."""
    with replacing(path) as rest, open_regular(path) as file:
        rest.writelines(encode(record) for _, _, record in read_records(file, path) if not record.failed)
