"""Real processes of `surelock run-batch` that start in milliseconds, to be killed at any moment.

A helper process imports everything once; each run is a fork of it. Run as a script it is that helper: it reads the
arguments of `ForkedRuns.run` as a line of JSON, and answers {"code": exit code, or minus the signal's number,
"seconds": ...}.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """How a run ended, and what it wrote on stderr."""

    code: int
    seconds: float
    stderr: str


class ForkedRuns:
    """The helper, for the time of a `with` block."""

    def __init__(self, folder: Path) -> None:
        self._stderr = folder / "stderr.txt"
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._stderr)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def run(
        self,
        *arguments: str,
        signals: Sequence[int] = (),
        at_seconds: float = 0.0,
        at_rows: int | None = None,
        file_limit: int | None = None,
    ) -> Run:
        """Run `surelock` with arguments.

        Args:
            signals: sent one right after the other, unless the run has ended.
            at_seconds: when, after the run's start.
            at_rows: when instead: as soon as the journal has so many rows, where the run stops until then.
            file_limit: bytes that any file may have, beyond which writes fail as on a full disk.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "arguments": arguments,
            "signals": list(signals),
            "at_seconds": at_seconds,
            "at_rows": at_rows,
            "file_limit": file_limit,
        }
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return Run(answer["code"], answer["seconds"], self._stderr.read_text(errors="replace"))


def _serve(stderr: str) -> None:
    import surelock.batch.decode
    import surelock.batch.job
    import surelock.llm
    from surelock.cli.main import app

    # What `surelock.llm` imports only when a model is loaded.
    transformers = importlib.import_module("transformers")
    assert surelock.llm
    assert transformers.PreTrainedTokenizerFast
    for line in sys.stdin:
        request = json.loads(line)
        begun_at = time.monotonic()
        child = os.fork()
        if child == 0:
            _become(app, request, stderr)
        if request["at_rows"] is None:
            time.sleep(request["at_seconds"])
        else:
            # It is left to be waited for, also where it has ended instead.
            os.waitid(os.P_PID, child, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        for number in request["signals"]:
            # What has ended has its number until it is waited for.
            os.kill(child, number)
            os.kill(child, signal.SIGCONT)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"code": code, "seconds": time.monotonic() - begun_at}), flush=True)


def _become(app: Any, request: dict[str, Any], stderr: str) -> None:
    """Never returns."""
    import resource

    code: object = 1
    try:
        file = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if request["file_limit"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
        if request["at_rows"] is not None:
            _stop_at(request["at_rows"])
        sys.argv = ["surelock", *request["arguments"]]
        try:
            app()
        except SystemExit as end:
            code = end.code
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 0)


def _stop_at(num_rows: int) -> None:
    """Stop this process, once, when its journal has so many rows."""
    from surelock.batch.journal import Journal

    append, stopped = Journal.append, list[bool]()

    def append_and_stop(self: Journal, record: Any) -> None:
        append(self, record)
        if self.totals.num_done >= num_rows and not stopped:
            stopped.append(True)
            os.kill(os.getpid(), signal.SIGSTOP)

    Journal.append = append_and_stop  # type: ignore[method-assign]


if __name__ == "__main__":
    _serve(sys.argv[1])
