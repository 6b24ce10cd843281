"""An engine without a model, for tests of what drives one: it counts steps, may be held, and fails on request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from surelock.engine.request import Request
from surelock.engine.snapshot import Snapshot
from surelock.errors import PromptError, SureLockError
from surelock.params import SamplingParams
from tests.waiting import WAIT_SECONDS


class ScriptedEngine:
    """Runs up to num_slots requests at a time, each for params.max_tokens steps; a snapshot's tokens are [step].

    Args:
        held: each step waits for `go`, so that a test decides what happens while it is under way.
        on_step: called within each step with its number; raises to fail it.
    """

    def __init__(
        self,
        num_slots: int = 4,
        *,
        held: bool = False,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self.held, self.on_step = held, on_step
        self.go = threading.Semaphore(0)
        self.in_step = threading.Event()
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.watched: list[bool] = []
        # {request id: why it fails in its first step, None for logits that are not finite}
        self.broken: dict[int, SureLockError | None] = {}
        self.num_steps = 0
        self.num_requests = 0
        self.threads: set[int] = set()
        self._free_slots = list(range(num_slots))

    @property
    def has_unfinished(self) -> bool:
        return bool(self.waiting or self.running)

    def add_request(self, canvas_ids: Sequence[int | None], params: SamplingParams) -> Request:
        self.threads.add(threading.get_ident())
        if len(canvas_ids) > 5:
            raise PromptError("the canvas is too long: shorten it")
        request = Request(self.num_requests, tuple(canvas_ids), params, seed=0)
        self.num_requests += 1
        self.waiting.append(request)
        return request

    def abort_request(self, request: Request) -> None:
        self.threads.add(threading.get_ident())
        if request in self.waiting:
            self.waiting.remove(request)
        elif request in self.running:
            self._release(request)

    def step(self, *, watched: bool = True) -> list[Snapshot]:
        self.threads.add(threading.get_ident())
        self.watched.append(watched)
        self.num_steps += 1
        while self.waiting and self._free_slots:
            request = self.waiting.pop(0)
            request.slot = self._free_slots.pop()
            self.running.append(request)
        self.in_step.set()
        if self.held and not self.go.acquire(timeout=WAIT_SECONDS):
            raise TimeoutError("no test let this step go on")
        if self.on_step is not None:
            self.on_step(self.num_steps)
        snapshots = [self._told(request) for request in list(self.running)]
        return [snapshot for snapshot in snapshots if watched or snapshot.request.is_finished]

    def _told(self, request: Request) -> Snapshot:
        request.active_rows.append(1)
        request.failed = request.id in self.broken
        request.error = self.broken.get(request.id)
        request.is_done = request.step == request.num_steps
        if request.is_finished:
            self._release(request)
        return Snapshot(request, [request.step], [], [], [], [], {})

    def let_step(self, num: int = 1) -> None:
        """Let steps go on, each after it has begun."""
        for _ in range(num):
            if not self.in_step.wait(WAIT_SECONDS):
                raise TimeoutError("no step began")
            self.in_step.clear()
            self.go.release()

    def _release(self, request: Request) -> None:
        assert request.slot is not None
        self.running.remove(request)
        self._free_slots.append(request.slot)
        request.slot = None
