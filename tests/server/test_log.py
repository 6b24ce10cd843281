from __future__ import annotations

import logging

import pytest

from surelock.server.log import BatchedHandler


def record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord("surelock", level, __file__, 1, text, (), None)


def test_lines_wait_for_a_flush_or_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    handler = BatchedHandler()
    handler.handle(record(logging.INFO, "one"))
    assert capfd.readouterr().err == ""
    handler.flush()
    assert capfd.readouterr().err == "one\n"
    handler.handle(record(logging.INFO, "two"))
    handler.handle(record(logging.WARNING, "three"))
    assert capfd.readouterr().err == "two\nthree\n"


def test_a_line_that_cannot_be_made_is_told_and_passed_over(capfd: pytest.CaptureFixture[str]) -> None:
    handler = BatchedHandler()
    broken = record(logging.INFO, "%d")
    broken.args = ("text",)
    handler.handle(broken)
    assert "--- Logging error ---" in capfd.readouterr().err
