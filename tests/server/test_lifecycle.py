"""The process: how it starts, what signals do, how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import orjson
import pytest
from typer.testing import CliRunner, Result

from surelock.cli.main import app
from surelock.cli.serve import _keys
from surelock.errors import ParameterError
from surelock.server.run import bind
from surelock.server.settings import ServerSettings
from tests.waiting import WAIT_SECONDS, until

COMMAND = (sys.executable, "-c", "from surelock.cli.main import app; app()", "serve", "--threads", "1")
BODY = {"prompt": "Once", "max_tokens": 40, "stream": True}
# `surelock` whose engine begins no step while the file named last is there.
HELD = """
import sys, time
from pathlib import Path
from surelock.cli.main import app
from surelock.engine.engine import Engine
gate, step = Path(sys.argv.pop()), Engine.step

def held(self, **options):
    if not gate.exists():
        return step(self, **options)
    time.sleep(0.002)
    return []

Engine.step = held
app()
"""


class Process:
    """`surelock serve` on a free port."""

    def __init__(self, *options: str, code: str | None = None) -> None:
        command = [*COMMAND, "--port", "0", *options]
        if code is not None:
            command[2] = code
        self.popen = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until(lambda: self.url is not None or self.popen.poll() is not None)
        assert self.url is not None, self.lines
        self.client = httpx.Client(base_url=self.url, timeout=WAIT_SECONDS, trust_env=False)

    @property
    def url(self) -> str | None:
        found = [match[0] for line in self.lines if (match := re.search(r"http://127\.0\.0\.1:\d+", line))]
        return found[0] if found else None

    def signal(self, number: int) -> None:
        os.kill(self.popen.pid, number)

    def close(self) -> None:
        self._reader.join()
        self.client.close()
        assert self.popen.stderr is not None
        self.popen.stderr.close()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.lines.append(line)


@contextmanager
def process(*options: str, code: str | None = None) -> Iterator[Process]:
    own = Process(*options, code=code)
    try:
        yield own
    finally:
        own.popen.kill()
        own.popen.wait()
        own.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_case_15_a_signal_drains_and_finishes_running_streams(number: int, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with process("--drain-timeout", "600", str(gate), code=HELD) as own:
        # Not yet held: the server warms up, and answers.
        expected = own.client.post("/v1/completions", json=BODY | {"stream": False}).json()["choices"][0]["text"]
        gate.touch()
        with own.client.stream("POST", "/v1/completions", json=BODY) as streamed:
            lines = streamed.iter_lines()
            assert next(lines).startswith("data: ")
            own.signal(number)
            until(lambda: any("draining" in line for line in own.lines))
            # Still answering, to say no.
            ready = own.client.get("/readyz")
            assert (ready.status_code, ready.json()["error"]["code"]) == (503, "draining")
            assert own.client.get("/livez").status_code == 200
            refused = own.client.post("/v1/completions", json=BODY)
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            gate.unlink()
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""]
        chunks = [orjson.loads(line[6:]) for line in rest if line.startswith("data: {")]
        assert expected.endswith("".join(chunk["choices"][0]["text"] for chunk in chunks))
        assert own.popen.wait(WAIT_SECONDS) == 0


def test_case_15_what_is_not_finished_in_time_is_told_so(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with process("--drain-timeout", "0.3", str(gate), code=HELD) as own:
        gate.touch()
        with own.client.stream("POST", "/v1/completions", json=BODY) as streamed:
            lines = streamed.iter_lines()
            assert next(lines).startswith("data: ")
            own.signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert '"error"' in rest[-2]
        assert rest[-1] == "data: [DONE]"
        assert own.popen.wait(WAIT_SECONDS) == 1


def test_case_15_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    # Without the second signal it would wait for longer than the test.
    with process("--drain-timeout", "3600", str(gate), code=HELD) as own:
        gate.touch()
        with own.client.stream("POST", "/v1/completions", json=BODY) as streamed:
            assert next(streamed.iter_lines()).startswith("data: ")
            own.signal(signal.SIGTERM)
            until(lambda: any("draining" in line for line in own.lines))
            own.signal(signal.SIGTERM)
            assert own.popen.wait(WAIT_SECONDS) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_case_15_a_hung_engine_ends_the_process() -> None:
    code = """
import time
from surelock.engine.engine import Engine
step, calls = Engine.step, []
Engine.step = lambda self, **options: time.sleep(1000) if calls else (calls.append(1), step(self, **options))[1]
from surelock.server import settings
defaults = settings.ServerSettings.__init__.__kwdefaults__
defaults["hang_timeout"] = 1.5
from surelock.cli.main import app
app()
"""
    with process(code=code) as own:
        with pytest.raises(httpx.HTTPError):
            own.client.post("/v1/completions", json=BODY | {"stream": False})
        assert own.popen.wait(WAIT_SECONDS) == 70


def command(*options: str) -> Result:
    return CliRunner().invoke(app, ["serve", *options])


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--public"], "no key"),
        (["--host", "0.0.0.0"], "--public"),
        (["--port", "99999"], "port is 99999"),
        (["--api-key-file", "no/such/file"], "--api-key-file"),
        (["--max-waiting", "0"], "max_waiting"),
    ],
)
def test_mistakes_are_one_line(options: list[str], fragment: str) -> None:
    result = command(*options)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert fragment in result.stderr


def test_without_the_extra_it_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surelock.cli.serve.find_spec", lambda name: None)
    result = command()
    assert result.exit_code == 2
    assert "pip install 'surelock[serve]'" in result.stderr


def test_keys_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("first-key-of-two\n\n second-key-of-two \n")
    assert _keys(file) == ("first-key-of-two", "second-key-of-two")
    file.write_text("\n")
    with pytest.raises(ParameterError, match="no key"):
        _keys(file)


def test_a_taken_port_is_said_before_the_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = command("--port", str(taken.getsockname()[1]), "--model", "no/such/folder")
    assert result.exit_code == 2
    assert "cannot listen" in result.stderr
    assert result.stderr.count("\n") == 1


def test_only_one_server_gets_a_port() -> None:
    with bind(ServerSettings(port=0)) as first, pytest.raises(ParameterError, match="cannot listen"):
        # The second has not begun to listen when the first one does.
        bind(ServerSettings(port=first.getsockname()[1]))


def test_dead_streams_do_not_end_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["sh", "-c", 'exec "$@" >&- 2>/dev/full', "sh", *COMMAND, "--port", str(port)]
    # Whoever runs the tests may ignore it, as nohup does, and a child inherits that.
    popen = subprocess.Popen(command, preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_SECONDS, trust_env=False) as client:

            def answers() -> bool:
                assert popen.poll() is None
                with contextlib.suppress(httpx.ConnectError):
                    return client.get("/livez").status_code == 200
                return False

            until(answers)
            body = BODY | {"stream": False, "max_tokens": 1}
            assert client.post("/v1/completions", json=body).status_code == 200
            until(lambda: "surelock_log_lines_dropped_total 0.0" not in client.get("/metrics").text)
            popen.send_signal(signal.SIGHUP)
        assert popen.wait(WAIT_SECONDS) == 0
    finally:
        popen.kill()
        popen.wait()
