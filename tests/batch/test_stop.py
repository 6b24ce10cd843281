from __future__ import annotations

import os
import signal

import pytest

from surelock.batch.stop import SIGNALS, Stop


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_would_end_the_process(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    stop = Stop()
    with stop.listening():
        os.kill(os.getpid(), number)
        assert stop.is_asked
        assert [signal.getsignal(each) for each in SIGNALS] == [signal.SIG_DFL, signal.SIG_DFL]
        with pytest.raises(KeyboardInterrupt), stop.interrupting():
            pytest.fail("it went on")
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_waiting_is_interrupted() -> None:
    stop = Stop()
    with stop.listening(), pytest.raises(KeyboardInterrupt), stop.interrupting():
        signal.raise_signal(signal.SIGTERM)


def test_nothing_else_is_interrupted() -> None:
    stop = Stop()
    with stop.listening():
        with stop.interrupting():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_asked
