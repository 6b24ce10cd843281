"""A server in a thread of the test's process, on a free port, with a model or a scripted engine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from surelock.engine.device_thread import SteppedEngine
from surelock.llm import LLM
from surelock.server.run import Server
from surelock.server.service import Service
from surelock.server.settings import ServerSettings
from tests.waiting import WAIT_SECONDS, until


@dataclass
class Running:
    """A server that answers."""

    server: Server
    service: Service
    url: str
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, body: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
        return self.client.post(path, json=body, **options) if body is not None else self.client.post(path, **options)

    def metric(self, name: str, **labels: str) -> float:
        value = self.service.metrics.registry.get_sample_value(name, labels)
        return 0.0 if value is None else value

    def until_idle(self) -> None:
        """Nothing is admitted, running or waiting."""
        until(lambda: self.service.admission.num_admitted == 0)
        until(lambda: self.service.engine.num_running + self.service.engine.num_waiting == 0)


@contextlib.contextmanager
def running(llm: LLM, make_engine: Callable[[], SteppedEngine] | None = None, **settings: Any) -> Iterator[Running]:
    """Serve `llm` for as long as the block lasts."""
    service = Service(llm, ServerSettings(port=0, **settings), make_engine=make_engine, warm_up=make_engine is None)
    server = Server(service)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    keys = service.settings.api_keys
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    try:
        with httpx.Client(base_url=server.address, headers=headers, timeout=WAIT_SECONDS, trust_env=False) as client:
            yield Running(server, service, server.address, client)
    finally:
        server.should_exit = True
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()
