"""Opens checkpoints that nobody should trust, each in a process of its own with 5 s of processor time and 1 GiB.

A test module makes a table of `Hostile` rows and gives each to `check_refused`. The processes are forks of one that has
imported everything, so a row takes milliseconds.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

MAX_SECONDS: Final = 5
MAX_BYTES: Final = 1 << 30
# Only ends a process that waits for ever; what it may compute is bounded by MAX_SECONDS.
HANG_SECONDS: Final = 90

_PROCESSES: Final = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.hostile_imports"])


@dataclass(frozen=True, slots=True)
class Hostile:
    """A checkpoint that must be refused.

    Attributes:
        name: of the row, in a test's id.
        build: makes a sound checkpoint's folder hostile.
        words: part of the one-line error.
        error: class of the error, by name.
        door: what is called: "load" is LLM(folder), and each of the others does that first.
    """

    name: str
    build: Callable[[Path], object]
    words: str
    error: str
    door: str = "load"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended: `error` is the class of what it raised, None if it raised nothing, and `message` its text.

    A process that was ended by a limit has the error "killed" and its exit code as the message.
    """

    error: str | None
    message: str
    is_ours: bool


def open_checkpoint(folder: Path, door: str = "load", *, max_seconds: int = MAX_SECONDS) -> Outcome:
    """Go through a door of `DOORS` with the model in `folder`, within the limits."""
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_open_limited, args=(folder, door, max_seconds, sender), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(HANG_SECONDS):
            return Outcome("killed", f"still running after {HANG_SECONDS} s", is_ours=False)
        outcome: Outcome = receiver.recv()
        return outcome
    except EOFError:
        process.join(HANG_SECONDS)
        return Outcome("killed", f"exit code {process.exitcode}", is_ours=False)
    finally:
        process.kill()
        process.join()
        process.close()
        receiver.close()


def check_refused(hostile: Hostile, folder: Path) -> None:
    """Make a sound checkpoint's folder hostile, open it, and see that it is refused in one line of ours."""
    hostile.build(folder)
    outcome = open_checkpoint(folder, hostile.door)
    assert (outcome.error, outcome.is_ours) == (hostile.error, True), outcome
    assert hostile.words in outcome.message, outcome
    assert outcome.message.isprintable(), outcome
    assert len(outcome.message) < 2000, outcome


def _open_limited(folder: Path, door: str, max_seconds: int, sender: Connection) -> None:
    from surelock.errors import SureLockError
    from surelock.llm import LLM

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MAX_BYTES,) * 2)
    # On top of what start and imports took.
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + max_seconds,) * 2)
    try:
        DOORS[door](LLM(folder, device="cpu"))
    except BaseException as error:
        sender.send(Outcome(type(error).__name__, str(error), isinstance(error, SureLockError)))
    else:
        sender.send(Outcome(None, "", is_ours=False))


def _generate(llm: Any) -> None:
    from surelock import SamplingParams

    llm.generate({"prompt_token_ids": [1, 2, 3]}, SamplingParams(max_tokens=4, steps=2))


def _spin(llm: Any) -> None:
    while True:
        pass


DOORS: Final[dict[str, Callable[[Any], object]]] = {
    "load": lambda llm: None,
    "generate": _generate,
    "encode": lambda llm: llm.encode("Once upon a time there was a fox."),
    "chat": lambda llm: llm.encode_chat([{"role": "user", "content": "Who are you?"}]),
    # For the tests of the limits themselves.
    "spin": _spin,
    "fill": lambda llm: bytearray(MAX_BYTES + (MAX_BYTES >> 3)),
}
