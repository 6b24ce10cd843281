"""Continuous batching of tasks: finished rows leave after each step, and new ones enter; one model in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from surelock.assemble import request_output
from surelock.batch.manifest import describe_model
from surelock.batch.records import record_of
from surelock.batch.task import Failure, Finished, Task
from surelock.batch.work import Done, Work, Worker
from surelock.engine.engine import Engine
from surelock.errors import JobError, shown_error
from surelock.params import SamplingParams
from surelock.text.prompts import CANVAS_KEY, TOKEN_IDS_KEY, Prompt, encode_segments

if TYPE_CHECKING:
    from surelock.engine.request import Request
    from surelock.engine.snapshot import Snapshot
    from surelock.llm import LLM


class Decoder:
    """Decodes tasks with an engine of its own. One thread and one `run` at a time."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._engine = Engine(llm.transformer, llm.engine_config)
        # A full batch, and as many that wait, so that no slot idles while the next rows are read.
        self._num_ahead = 2 * llm.engine_config.max_batch_size

    def run(self, tasks: Iterator[Task | Failure]) -> Generator[list[Finished], None, None]:
        """What each step finished, maybe nothing; failures among the tasks come back as they are.

        Tasks are taken only as far ahead as the engine needs them. Closing the iterator drops those that are not done.

        Raises:
            JobError: the engine stopped in the middle of a step.
        """
        pending: dict[Request, Task] = {}
        exhausted = False
        try:
            while not exhausted or pending:
                finished: list[Finished] = []
                # Rows that fail at once must not keep the caller waiting for ever.
                while not exhausted and len(pending) < self._num_ahead and len(finished) < self._num_ahead:
                    task = next(tasks, None)
                    if task is None:
                        exhausted = True
                    elif isinstance(task, Failure):
                        finished.append(task)
                    elif isinstance(request := self._add(task), Failure):
                        finished.append(request)
                    else:
                        pending[request] = task
                for snapshot in self._step() if pending else ():
                    task = pending.pop(snapshot.request)
                    if snapshot.request.error is not None:
                        finished.append(_failure(task, snapshot.request.error))
                        continue
                    try:
                        finished.append((task, request_output(snapshot, self._llm.config, self._llm.tokenizer)))
                    # A text that cannot be made is this row's trouble only.
                    except Exception as error:
                        finished.append(_failure(task, error))
                yield finished
        finally:
            if not self._engine.has_failed:
                for request in pending:
                    self._engine.abort_request(request)

    def _step(self) -> list[Snapshot]:
        try:
            return self._engine.step(watched=False)
        except Exception as error:
            raise JobError(
                f"decoding stopped at an error ({shown_error(error)}); the rows done before are kept: run the same "
                "command again"
            ) from error

    def _add(self, task: Task) -> Request | Failure:
        try:
            prompt, params = self._prompt(task)
            (canvas_ids,) = self._llm.encode(prompt, params)
            return self._engine.add_request(canvas_ids, params)
        # A tokenizer or template that breaks on one text breaks on that text only.
        except Exception as error:
            return _failure(task, error)

    def _prompt(self, task: Task) -> tuple[Prompt, SamplingParams]:
        if task.messages is not None:
            return {TOKEN_IDS_KEY: self._llm.encode_chat(task.messages)}, task.params
        assert task.prompt is not None
        if task.suffix is None:
            return task.prompt, task.params
        segments: list[str | int] = [str(task.prompt), task.params.max_tokens, task.suffix]
        canvas = encode_segments(segments, tokenizer=self._llm.tokenizer, config=self._llm.config)
        return {CANVAS_KEY: canvas}, replace(task.params, max_tokens=0)


def _failure(task: Task, error: Exception) -> Failure:
    return Failure(row=task.row, form=task.form, name=task.name, error=error)


def local_worker(load: Callable[[], LLM]) -> Worker:
    """A worker that loads its model when it is first asked for something."""

    def work_through(work: Work) -> Generator[Done, None, None]:
        llm = load()
        model = describe_model(llm)
        # Whether the job is this model's is found out before anything runs.
        yield Done(model, [])
        for finished in Decoder(llm).run(work.tasks()):
            yield Done(model, [record_of(each, llm.name) for each in finished])

    return work_through
