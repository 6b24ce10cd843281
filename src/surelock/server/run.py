"""`serve`: the process, from its first signal to its exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import time
from contextlib import AbstractContextManager
from types import FrameType
from typing import Final

import uvicorn

from surelock.errors import ParameterError
from surelock.server.app import create_app
from surelock.server.descriptors import BACKLOG, LoopErrors
from surelock.server.log import flush_log
from surelock.server.protocol import guarded_protocol
from surelock.server.service import Service
from surelock.server.settings import ServerSettings
from surelock.server.signals import begins_drain, handling, stop_before_start

# After the last stream: for its last bytes to leave.
_CLOSING_SECONDS: Final = 5
_EXIT_HANGING: Final = 70
# Python's own is 5 ms, which makes a refusal take longer than 10 ms while the engine is busy.
SWITCH_SECONDS: Final = 0.0005
_log = logging.getLogger("surelock.server")


class Server(uvicorn.Server):
    """uvicorn's server that drains: after the first signal it still answers, and refuses new work.

    Attributes:
        exit_code: 0 after a drain, 1 if requests had to be dropped, 70 if the engine hung.
    """

    def __init__(self, service: Service) -> None:
        settings = service.settings
        config = uvicorn.Config(
            create_app(service),
            host=settings.host,
            port=settings.port,
            http=guarded_protocol(settings),
            ws="none",
            # uvloop is no faster here: it takes Python's lock anew for every callback, while an engine is busy.
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(max(1, settings.keep_alive)),
            timeout_graceful_shutdown=_CLOSING_SECONDS,
            backlog=BACKLOG,
        )
        super().__init__(config)
        self.exit_code = 0
        self._service = service
        self._drain_until: float | None = None

    @property
    def address(self) -> str:
        """Where it listens, once `started`."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where it listens, which `--port 0` leaves open."""
        asyncio.get_running_loop().set_exception_handler(LoopErrors())
        await super().startup(sockets)
        if self.started:
            _log.info("serving %s at %s", self._service.model, self.address)

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """uvicorn's own raises them again at the end, and leaves SIGHUP out."""
        return handling(self.handle_exit)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the drain, the second ends the process."""
        if not self.started:
            stop_before_start(sig)
        if begins_drain(sig, is_draining=self._drain_until is not None):
            self._service.admission.is_draining = True
            self._drain_until = time.monotonic() + self._service.settings.drain_timeout

    async def on_tick(self, counter: int) -> bool:
        """Every 0.1 s: whether to stop."""
        if self._service.silence > self._service.settings.hang_timeout:
            _log.critical("the engine has not moved for %.0f s; giving up", self._service.silence)
            flush_log()
            # Its thread cannot be ended, and would keep the process from ending.
            os._exit(_EXIT_HANGING)
        if self._drain_until is not None:
            if self._service.admission.num_admitted == 0:
                return True
            if time.monotonic() >= self._drain_until:
                _log.error("%d choices were not finished in time", self._service.admission.num_admitted)
                self.exit_code = 1
                # Each of them ends with an error, which its stream tells.
                await self._service.drop()
                return True
        return await super().on_tick(counter)


def bind(settings: ServerSettings) -> socket.socket:
    """The socket to listen with, listening; taken before a model is loaded, so that a mistake shows early.

    Clients that connect while the model is loaded wait for it. Only a socket that listens keeps a second server away.

    Raises:
        ParameterError: there is no such address, or another process has it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[
            0
        ]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ParameterError(
            f"cannot listen at host {settings.host}, port {settings.port}: {error.strerror}; choose others"
        ) from error
    return listener


def answer_promptly() -> None:
    """Set the interpreter up for a process whose event loop shares it with an engine. Once everything is loaded."""
    # The event loop lets go of Python's lock at every write to a socket; the engine's thread gives it back after this.
    sys.setswitchinterval(SWITCH_SECONDS)
    # Going through the objects of all libraries stops every thread for 0.2 s, and they are never garbage.
    gc.collect()
    gc.freeze()


def serve(service: Service, listener: socket.socket) -> int:
    """Serve until a signal; returns the exit code."""
    answer_promptly()
    server = Server(service)
    server.run(sockets=[listener])
    return server.exit_code
