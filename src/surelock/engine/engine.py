"""The engine: requests in, one denoising step of all of them at a time, finished requests out."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice

import torch

from surelock.config import EngineConfig
from surelock.decoding.locking import KLRule
from surelock.decoding.protocols import LockingRule, RowSelector
from surelock.decoding.selection import AllActive
from surelock.decoding.step import Method, StepResult
from surelock.decoding.unmasking import POLICIES
from surelock.engine.device_batch import DeviceBatch, Replay
from surelock.engine.free_memory import free_bytes
from surelock.engine.graphs import Graphs
from surelock.engine.memory import (
    DEFAULT_MAX_ROWS,
    NUM_RESERVED,
    MemoryPlan,
    check_fits,
    is_out_of_memory,
    plan_memory,
)
from surelock.engine.position_pool import PositionPool
from surelock.engine.request import Request
from surelock.engine.scheduler import Scheduler
from surelock.engine.snapshot import CanvasCopy, Snapshot
from surelock.errors import EngineError, OutOfMemoryError, ParameterError, PromptError, shown_error
from surelock.models.transformer import Transformer
from surelock.ops.dispatch import is_fast
from surelock.params import MIN_HALF_PRECISION_KL, SamplingParams


class Engine:
    """Decodes requests of different lengths, steps and parameters together.

    `add_request`, then `step` until nothing is unfinished. One thread at a time.

    Args:
        model: the transformer.
        config: limits.
        locking: a rule in place of `KLRule`; it is not asked for requests that never lock.
        selector: in place of `AllActive`.
        graphs: see `DeviceBatch`; by default captured graphs where the config and the device allow them.
    """

    def __init__(
        self,
        model: Transformer,
        config: EngineConfig | None = None,
        *,
        locking: LockingRule | None = None,
        selector: RowSelector | None = None,
        graphs: Replay | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self._model = model
        # In float32 nothing may depend on the shape of a batch, and padding changes it.
        if graphs is None and self.config.cuda_graphs and model.dtype != torch.float32 and is_fast(model.device):
            graphs = Graphs(model.device, self.config.max_graphs)
        self._graphs = graphs
        self._method = Method(
            selector or AllActive(), POLICIES, locking or KLRule(), model.lm_head, model.config.mask_token_id
        )
        self._batch = self._new_batch()
        self._memory = self._plan_memory()
        self._pool = PositionPool(NUM_RESERVED, reserved=NUM_RESERVED)
        self._scheduler = Scheduler(self.config.max_batch_size, self._memory.max_rows, self._pool)
        self._error: BaseException | None = None
        self._num_requests = 0

    @property
    def has_unfinished(self) -> bool:
        """Whether any request waits or runs."""
        return self._scheduler.has_unfinished

    @property
    def has_failed(self) -> bool:
        """Whether a step did not end, so that no other will begin."""
        return self._error is not None

    def add_request(self, canvas_ids: Sequence[int | None], params: SamplingParams) -> Request:
        """Queue a canvas: canvas_ids is its prompt part (None = masked), params.max_tokens masks follow.

        Raises:
            ParameterError: see `check_params`.
            PromptError: the canvas is too long for the model or for this engine's memory, or nothing in it is masked.
        """
        check_params(params, self._model)
        limit, num = self._model.config.max_sequence_length, len(canvas_ids) + params.max_tokens
        if num > limit:
            raise PromptError(f"the canvas has {num} positions; the model's limit is {limit}: shorten it")
        if params.max_tokens == 0 and None not in canvas_ids:
            raise PromptError("the canvas has no masked position: raise max_tokens, or put None where to denoise")
        seed = secrets.randbits(63) if params.seed is None else params.seed
        request = Request(self._num_requests, tuple(canvas_ids), params, seed)
        check_fits(self._memory, request.num_positions, request.num_streams)
        self._num_requests += 1
        self._scheduler.add(request)
        return request

    @torch.inference_mode()
    def abort_request(self, request: Request) -> None:
        """Drop a request at any step; one that is not here any more is ignored."""
        if request in self._scheduler.running or request in self._scheduler.waiting:
            self._release(request)

    def run(self, *, watched: bool = True) -> Iterator[Snapshot]:
        """Step until no request waits or runs, giving what each `step` gives."""
        while self.has_unfinished:
            yield from self.step(watched=watched)

    @torch.inference_mode()
    def step(self, *, watched: bool = True) -> list[Snapshot]:
        """One denoising step of every running request; finished ones (`Request.is_finished`) have left the batch.

        Returns a snapshot of each, or only of the finished ones if the step is not watched.

        Raises:
            EngineError: an earlier step did not end; what it left behind cannot be trusted.
        """
        if self._error is not None:
            raise EngineError(f"this engine stopped at an earlier error ({shown_error(self._error)}): make a new one")
        try:
            try:
                with self._device():
                    return self._step(watched)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler: the error holds the frames, and they hold memory.
            with self._device():
                return self._recover()
        except BaseException as error:
            self._error = error
            raise

    @property
    def num_graphs(self) -> int:
        """Captured graphs there are, at most `EngineConfig.max_graphs`."""
        return 0 if self._graphs is None else len(self._graphs)

    @property
    def graph_bytes(self) -> int:
        """Bytes of the device's memory that capturing them has taken."""
        return 0 if self._graphs is None else self._graphs.num_bytes

    @torch.inference_mode()
    def warm_up(self, num_rows: int) -> None:
        """Capture what steps of up to num_rows rows need, so that none waits for it later. Nothing without graphs."""
        with self._device():
            self._batch.warm_up(num_rows)

    def _device(self) -> AbstractContextManager[object]:
        """The model's device is the current one: that of a new thread is the first."""
        device = self._model.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def _step(self, watched: bool) -> list[Snapshot]:
        self._admit()
        running = list(self._scheduler.running)
        if not running:
            return []
        launched = self._batch.launch(running)
        canvases = self._copy(running, launched.result) if watched else None
        self._batch.collect(launched, running)
        finished = [request for request in running if request.is_finished]
        if finished and canvases is None:
            canvases = self._copy(finished, launched.result)
            if self._model.device.type == "cuda":
                torch.cuda.current_stream(self._model.device).synchronize()
        if canvases is None:
            return []
        snapshots = [canvases.snapshot(request) for request in (running if watched else finished)]
        for request in finished:
            self._release(request)
        return snapshots

    def _copy(self, requests: Sequence[Request], result: StepResult) -> CanvasCopy:
        return CanvasCopy(
            self._batch.canvas, result, [request.slot for request in requests if request.slot is not None]
        )

    def _recover(self) -> list[Snapshot]:
        """Memory ran out on the way to a step: fewer rows start again from nothing. A single request fails."""
        snapshots = []
        failed = [] if self._scheduler.shrink() else list(self._scheduler.running)
        for request in failed:
            self._scheduler.release(request)
        self._batch = self._new_batch()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        # Others may have taken memory since the engine started.
        self._memory = self._plan_memory()
        self._pool.reset(NUM_RESERVED)
        for request in list(self._scheduler.waiting):
            try:
                check_fits(self._memory, request.num_positions, request.num_streams)
            except PromptError:
                self._scheduler.release(request)
                failed.append(request)
        for request in failed:
            snapshots.append(self._fail_for_memory(request))
        return snapshots

    def _fail_for_memory(self, request: Request) -> Snapshot:
        request.failed = True
        request.error = OutOfMemoryError(
            f"memory ran out for a canvas of {request.num_positions} positions: shorten it, free memory, or use a "
            "smaller model or dtype"
        )
        tokens = request.token_ids(self._method.mask_token_id)
        masked = [token == self._method.mask_token_id for token in tokens]
        return Snapshot(request, tokens, masked, [None] * len(tokens), [], [], {})

    def _new_batch(self) -> DeviceBatch:
        if self._graphs is not None:
            self._graphs.clear()
        return DeviceBatch(self._model, self._method, self._graphs, poison=self.config.poison)

    def _admit(self) -> None:
        waiting, running = self._scheduler.waiting, self._scheduler.running
        if not waiting:
            return
        coming = [*running, *islice(waiting, self.config.max_batch_size - len(running))]
        wanted = NUM_RESERVED + sum(request.num_positions * request.num_streams for request in coming)
        if wanted > self._pool.capacity:
            # Twice as much, because captured graphs go when the pool moves.
            self._pool.grow(min(max(wanted, 2 * self._pool.capacity), self._memory.num_positions))
        admitted = self._scheduler.admit()
        if not admitted:
            return
        self._batch.make_room(len(coming), max(request.num_positions for request in coming), self._pool.capacity)
        for request in admitted:
            self._batch.put(request)
        self._batch.look_ahead(running)

    def _release(self, request: Request) -> None:
        if request.slot is not None:
            self._batch.remove(request)
        self._scheduler.release(request)

    def _plan_memory(self) -> MemoryPlan:
        model, config = self._model, self.config
        return plan_memory(
            model.config,
            model.dtype,
            free_bytes=free_bytes(model.device),
            fraction=config.memory_fraction,
            max_rows=config.max_rows or DEFAULT_MAX_ROWS,
            max_positions=NUM_RESERVED + 2 * config.max_batch_size * model.config.max_sequence_length,
            device_type=model.device.type,
        )


def check_params(params: SamplingParams, model: Transformer) -> None:
    """Raise ParameterError if the lock threshold is below this model's rounding noise."""
    lock = params.lock
    if lock is None or lock.allow_noise_eps or model.dtype == torch.float32:
        return
    if 0 <= lock.kl_threshold < MIN_HALF_PRECISION_KL:
        raise ParameterError(
            f"lock.kl_threshold is {lock.kl_threshold:g}; on a {model.dtype} model anything below "
            f"{MIN_HALF_PRECISION_KL:g} measures rounding: raise it, or set lock.allow_noise_eps"
        )
