"""Signals, one by one, in this process: nothing is ended but what a test has put in place of `os._exit`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from surelock import LLM
from surelock.cli.main import app
from surelock.errors import ParameterError
from surelock.server.replicas import Signals
from surelock.server.run import Server
from surelock.server.service import Service
from surelock.server.settings import ServerSettings
from surelock.server.signals import handling, stopping_while_loading


class ExitError(Exception):
    """In place of the process's end."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@pytest.fixture(autouse=True)
def _exits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def leave(code: int) -> None:
        raise ExitError(code)

    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr("surelock.server.signals.flush_log", lambda: None)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    # Whoever runs the tests may ignore some of them, as a shell does for a command in the background.
    found = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    assert {number: signal.getsignal(number) for number in before} == before
    for number, handler in found.items():
        signal.signal(number, handler)


def exit_code(number: int) -> int | None:
    """What the process would end with after this signal; None: it goes on."""
    try:
        signal.raise_signal(number)
    except ExitError as end:
        return end.code
    return None


@pytest.fixture
def server(llm: LLM) -> Server:
    return Server(Service(llm, ServerSettings(port=0)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_while_it_loads(number: int) -> None:
    with stopping_while_loading():
        assert exit_code(number) == 0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
def test_while_it_warms_up(server: Server, number: int, code: int) -> None:
    with server.capture_signals():
        assert exit_code(number) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_first_begins_the_drain_and_the_second_ends_it(server: Server, number: int) -> None:
    server.started = True
    with server.capture_signals():
        assert exit_code(number) is None
        assert server._service.admission.is_draining
        # A terminal that closes says so twice.
        assert exit_code(signal.SIGHUP) is None
        assert exit_code(signal.SIGTERM) == 128 + signal.SIGTERM


def test_on_ray_a_closed_terminal_begins_the_drain() -> None:
    signals = Signals()
    signals.interrupts = False
    with signals.listening():
        assert exit_code(signal.SIGHUP) is None
        assert signals.is_asked
        assert exit_code(signal.SIGHUP) is None
        assert exit_code(signal.SIGTERM) == 128 + signal.SIGTERM


def test_nohup_is_heeded() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling(lambda number, frame: None):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_serve_loads_under_these_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = []

    def load(*arguments: Any) -> None:
        codes.append(exit_code(signal.SIGTERM))
        raise ParameterError("enough")

    monkeypatch.setattr("surelock.cli.serve.load_llm", load)
    assert CliRunner().invoke(app, ["serve", "--port", "0"]).exit_code == 2
    assert codes == [0]
