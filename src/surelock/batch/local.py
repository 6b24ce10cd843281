"""The worker of this process: one model, rows batched continuously."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from surelock.batch.decode import Decoder
from surelock.batch.manifest import describe_model
from surelock.batch.records import record_of
from surelock.batch.work import Done, Work, Worker

if TYPE_CHECKING:
    from surelock.llm import LLM


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
