"""The engine: requests in, one denoising step of all of them at a time, finished requests out."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch

from surelock.config import EngineConfig
from surelock.decoding.canvas import Canvas
from surelock.decoding.locking import KLRule
from surelock.decoding.protocols import LockingRule
from surelock.decoding.selection import AllActive
from surelock.decoding.step import Method, StepResult, apply, denoise_step
from surelock.decoding.unmasking import POLICIES
from surelock.engine.batching import step_plan
from surelock.engine.request import Request
from surelock.engine.runner import Runner
from surelock.engine.scheduler import Scheduler
from surelock.engine.snapshot import Snapshot, take_snapshot
from surelock.errors import EngineError, ParameterError, PromptError, shown_error
from surelock.models.transformer import Transformer
from surelock.params import MIN_HALF_PRECISION_KL, SamplingParams


class Engine:
    """Decodes requests of different lengths, steps and parameters together.

    `add_request`, then `step` until nothing is unfinished. One thread at a time.

    Args:
        model: the transformer.
        config: limits.
        runner: an idle one to take over, with the memory and graphs it has.
        locking: a rule in place of `KLRule`; it is not asked for requests that never lock.
    """

    def __init__(
        self,
        model: Transformer,
        config: EngineConfig | None = None,
        *,
        runner: Runner | None = None,
        locking: LockingRule | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self._model = model
        self._scheduler = Scheduler(self.config.max_batch_size)
        self._runner = runner or Runner(model, self.config)
        self._error: BaseException | None = None
        self._canvas = Canvas(model.config.hidden_size, dtype=model.dtype, device=model.device)
        self._method = Method(AllActive(), POLICIES, locking or KLRule(), model.lm_head, model.config.mask_token_id)
        self._num_requests = 0

    @property
    def has_unfinished(self) -> bool:
        """Whether any request waits or runs."""
        return self._scheduler.has_unfinished

    def check(self, params: SamplingParams) -> None:
        """Raise ParameterError if the lock threshold is below this model's rounding noise."""
        lock = params.lock
        if lock is None or lock.allow_noise_eps or self._model.dtype == torch.float32:
            return
        if 0 <= lock.kl_threshold < MIN_HALF_PRECISION_KL:
            raise ParameterError(
                f"lock.kl_threshold is {lock.kl_threshold:g}; on a {self._model.dtype} model anything below "
                f"{MIN_HALF_PRECISION_KL:g} measures rounding: raise it, or set lock.allow_noise_eps"
            )

    def add_request(self, canvas_ids: Sequence[int | None], params: SamplingParams) -> Request:
        """Queue a canvas: canvas_ids is its prompt part (None = masked), params.max_tokens masks follow.

        Raises:
            ParameterError: see `check`.
            PromptError: the canvas is too long for the model, or nothing in it is masked.
        """
        self.check(params)
        limit, num = self._model.config.max_sequence_length, len(canvas_ids) + params.max_tokens
        if num > limit:
            raise PromptError(f"the canvas has {num} positions; the model's limit is {limit}: shorten it")
        if params.max_tokens == 0 and None not in canvas_ids:
            raise PromptError("the canvas has no masked position: raise max_tokens, or put None where to denoise")
        seed = secrets.randbits(63) if params.seed is None else params.seed
        request = Request(self._num_requests, tuple(canvas_ids), params, seed)
        self._num_requests += 1
        self._scheduler.add(request)
        return request

    @torch.inference_mode()
    def abort_request(self, request: Request) -> None:
        """Drop a request at any step; one that is not here any more is ignored."""
        if request in self._scheduler.running or request in self._scheduler.waiting:
            self._release(request)

    @torch.inference_mode()
    def step(self, *, watched: bool = True) -> list[Snapshot]:
        """One denoising step of every running request; finished ones (`Request.is_finished`) have left the batch.

        Returns a snapshot of each, or only of the finished ones if nobody watched.

        Raises:
            EngineError: an earlier step did not end; what it left behind cannot be trusted.
        """
        if self._error is not None:
            raise EngineError(f"this engine stopped at an earlier error ({shown_error(self._error)}): make a new one")
        try:
            return self._step(watched)
        except BaseException as error:
            self._error = error
            raise

    def _step(self, watched: bool) -> list[Snapshot]:
        self._admit()
        running = list(self._scheduler.running)
        if not running:
            return []
        for request in running:
            self._advance(request)
        plan = step_plan(running, self._canvas.num_slots, self._canvas.device)
        result = denoise_step(self._canvas, plan, self._method, self._runner)
        apply(self._canvas, result, plan.step)
        self._count(running, result)
        snapshots = [
            take_snapshot(request, result, self._canvas) for request in running if watched or request.is_finished
        ]
        for request in running:
            if request.is_finished:
                self._release(request)
        return snapshots

    def _admit(self) -> None:
        admitted = self._scheduler.admit()
        if not admitted:
            return
        num_slots = 1 + max(request.slot for request in admitted if request.slot is not None)
        self._canvas.grow(num_slots, max(request.num_positions for request in admitted))
        self._runner.start(admitted, self._canvas.length)
        mask_token_id = self._model.config.mask_token_id
        for request in admitted:
            assert request.slot is not None
            ids = torch.tensor(request.token_ids(mask_token_id), dtype=torch.int64, device=self._canvas.device)
            self._canvas.put(request.slot, ids, ids == mask_token_id)

    def _advance(self, request: Request) -> None:
        request.step += 1
        block, index = request.schedule.locate(request.step)
        if index == 0:
            request.num_block_masks = int(self._canvas.masked[request.slot, block.counted_from : block.end].sum())

    def _count(self, running: Sequence[Request], result: StepResult) -> None:
        generated = result.locked & ~self._canvas.given
        # [7, S], in one wait for the device.
        counts = torch.stack(
            (
                result.rows.sum(1),
                result.num_proposed,
                result.num_scored,
                result.num_gate_blocked,
                (generated & (result.age == 0)).sum(1),
                generated.sum(1),
                result.failed.long(),
            )
        ).tolist()
        for request in running:
            num_rows, num_proposed, num_scored, num_blocked, num_ghosts, num_generated, failed = (
                column[request.slot] for column in counts
            )
            request.active_rows.append(num_rows)
            request.num_proposed.append(num_proposed)
            request.num_scored.append(num_scored)
            request.num_gate_blocked += num_blocked
            request.num_ghosts += num_ghosts
            request.num_generated_locks += num_generated
            request.failed = bool(failed)

    def _release(self, request: Request) -> None:
        if request.slot is not None:
            self._canvas.clear(request.slot)
            self._runner.finish(request.slot)
        self._scheduler.release(request)
