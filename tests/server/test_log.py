"""The log must not hurt the server: whatever is at the other end of stderr, a line costs nothing or itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from surelock.server.log import MAX_LINES, BackgroundHandler, num_dropped_lines
from surelock.server.metrics import Metrics
from tests.waiting import until


def record(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("surelock", logging.INFO, "/some/place.py", 7, text, arguments, None)


@contextmanager
def handler_of(descriptor: int) -> Iterator[BackgroundHandler]:
    handler = BackgroundHandler(descriptor)
    try:
        yield handler
    finally:
        handler.close()


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        for descriptor in (reader, writer):
            with suppress(OSError):
                os.close(descriptor)


def test_lines_are_written_in_order() -> None:
    with pipe() as (reader, writer), handler_of(writer) as handler:
        for text in ("one", "two \udcff", "three"):
            handler.handle(record(text))
        handler.flush()
        assert os.read(reader, 1000) == b"one\ntwo \\udcff\nthree\n"
        assert handler.num_dropped == 0


def test_a_line_that_cannot_be_made_is_told_and_passed_over() -> None:
    with pipe() as (reader, writer), handler_of(writer) as handler:
        handler.handle(record("%d", "text"))
        handler.flush()
        assert os.read(reader, 1000) == b"the line of place.py:7 cannot be made\n"


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("open_file", [full_disk, closed_pipe])
def test_what_cannot_be_written_is_counted(open_file: Callable[[], int]) -> None:
    descriptor = open_file()
    with handler_of(descriptor) as handler:
        for _ in range(3):
            handler.handle(record("line"))
        handler.flush()
        assert handler.num_dropped == 3
    os.close(descriptor)


def test_a_pipe_that_nobody_reads_holds_up_nobody() -> None:
    num = 3 * MAX_LINES
    with pipe() as (reader, writer), handler_of(writer) as handler:
        # Much more than a pipe holds: the thread is stuck in the middle of it.
        for number in range(num):
            handler.handle(record("%0100d", number))
        num_dropped = handler.num_dropped
        assert num_dropped >= num - 2 * MAX_LINES - 1000
        handler.flush()
        # Read at last: what was kept comes out, and new lines do.
        received = bytearray()
        while received.count(b"\n") < num - num_dropped:
            received += os.read(reader, 1 << 20)
        until(lambda: not handler._is_writing)
        handler.handle(record("the last one"))
        handler.flush()
        assert os.read(reader, 1000) == b"the last one\n"
        assert handler.num_dropped == num_dropped


def test_dropped_lines_are_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = full_disk()
    with handler_of(descriptor) as handler:
        monkeypatch.setattr(logging.getLogger(), "handlers", [handler, logging.NullHandler()])
        handler.handle(record("line"))
        handler.flush()
        assert num_dropped_lines() == 1
        assert b"surelock_log_lines_dropped_total 1.0" in Metrics("model").text()
    os.close(descriptor)
