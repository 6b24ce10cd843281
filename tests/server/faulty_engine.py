"""A real engine that can be held between steps, and whose requests fail when told to."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from surelock import LLM
from surelock.engine.engine import Engine
from surelock.engine.request import Request
from surelock.engine.snapshot import Snapshot
from surelock.errors import SureLockError
from surelock.params import SamplingParams

# The mark of a request in its `max_tokens`, which the tests choose.
Broken = dict[int, SureLockError | None]


class FaultyEngine:
    """Passes everything on.

    Args:
        broken: {max_tokens of a request: why its first step fails it, None for logits that are not finite}.
        held: no step begins until `go` is set.
        held_after: so many steps are done, and the next one waits for `go` again.
    """

    def __init__(
        self, llm: LLM, *, broken: Broken | None = None, held: bool = False, held_after: int | None = None
    ) -> None:
        self._engine = Engine(llm.transformer, llm.engine_config)
        self.broken = broken or {}
        self._held_after = held_after
        self.raise_in_step: Exception | None = None
        self.go = threading.Event()
        if not held:
            self.go.set()
        self.num_steps = 0

    @property
    def has_unfinished(self) -> bool:
        return self._engine.has_unfinished

    def add_request(self, canvas_ids: Sequence[int | None], params: SamplingParams) -> Request:
        return self._engine.add_request(canvas_ids, params)

    def abort_request(self, request: Request) -> None:
        self._engine.abort_request(request)

    def step(self, *, watched: bool = True) -> list[Snapshot]:
        # In pieces, so that a server that stops is not kept from it.
        if not self.go.wait(0.02):
            return []
        if self.raise_in_step is not None:
            raise self.raise_in_step
        self.num_steps += 1
        if self.num_steps == self._held_after:
            self.go.clear()
        return [self._checked(snapshot) for snapshot in self._engine.step(watched=watched or bool(self.broken))]

    def _checked(self, snapshot: Snapshot) -> Snapshot:
        request = snapshot.request
        if request.params.max_tokens in self.broken and not request.is_finished:
            self._engine.abort_request(request)
            request.failed = True
            request.error = self.broken[request.params.max_tokens]
        return snapshot
