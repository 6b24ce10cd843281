"""Workers on a Ray cluster: Ray Data moves spans of rows through actors that each hold a model.

Only spans and records travel. The input file, and a model given as a folder, must have the same path on every machine.
The journal stays with this process: what an actor had not given back when it was lost is decoded again by another one,
and a record that comes twice counts once.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from surelock.batch.decode import Decoder
from surelock.batch.journal import decode, encode
from surelock.batch.manifest import describe_model
from surelock.batch.records import record_of
from surelock.batch.task import Defaults
from surelock.batch.work import Done, Span, Work, Worker, spans_of
from surelock.config import EngineConfig
from surelock.errors import JobError, shown_error
from surelock.ray_cluster import connected, import_ray

# Of a span: what a lost actor loses, and enough for a batch to stay full most of the time.
MAX_ROWS_PER_SPAN: Final = 256
SPANS_PER_ACTOR: Final = 4


class RowActor:
    """Decodes spans of the rows of `path` with a model of its own; `model` is the arguments of `LLM`."""

    def __init__(self, path: Path, defaults: Defaults, model: Mapping[str, Any], engine_config: EngineConfig) -> None:
        from surelock.llm import LLM

        self._path, self._defaults = path, defaults
        self._llm = LLM(**model, engine_config=engine_config)
        self._model = orjson.dumps(describe_model(self._llm))
        self._decoder = Decoder(self._llm)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        """A batch with the column `span` to one with the columns `record` and `model`, a row for each row decoded."""
        records = [
            encode(record_of(each, self._llm.name))
            for span in batch["span"]
            for finished in self._decoder.run(Span.from_json(bytes(span)).tasks(self._path, self._defaults))
            for each in finished
        ]
        return {"record": records, "model": [self._model] * len(records)}


def ray_worker(model: Mapping[str, Any], engine_config: EngineConfig, *, num_actors: int | None = None) -> Worker:
    """A worker that uses the cluster RAY_ADDRESS names, or else one of its own on this machine.

    Args:
        model: arguments of `LLM`; where the cluster has GPUs and `device` is not a CPU, each actor gets one.
        engine_config: an actor reserves as many CPUs as it has threads, or one.
        num_actors: None: one for each GPU, or one.

    Raises:
        ParameterError: Ray is not installed.
    """
    ray, data = import_ray("ray.data")

    def work_through(work: Work) -> Generator[Done, None, None]:
        arguments = {
            "path": work.scan.path.resolve(),
            "defaults": work.defaults,
            "model": model,
            "engine_config": engine_config,
        }
        with connected(ray):
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            num_gpus = int(ray.cluster_resources().get("GPU", 0)) if model.get("device") != "cpu" else 0
            size = num_actors or max(1, num_gpus)
            num_rows = -(-work.journal.num_left // (SPANS_PER_ACTOR * size))
            spans = [{"span": span.to_json()} for span in spans_of(work, min(num_rows, MAX_ROWS_PER_SPAN))]
            data.DataContext.get_current().enable_progress_bars = False
            try:
                results = data.from_items(spans, override_num_blocks=len(spans)).map_batches(
                    RowActor,
                    fn_constructor_kwargs=arguments,
                    batch_size=1,
                    compute=data.ActorPoolStrategy(size=size),
                    num_cpus=engine_config.num_threads or 1,
                    num_gpus=1 if num_gpus else None,
                )
                for result in results.iter_rows():
                    yield _done(result)
            except ray.exceptions.RayError as error:
                raise JobError(
                    f"Ray gave up ({shown_error(error)}); the rows done before are kept: run the same command again"
                ) from error

    return work_through


def _done(result: Mapping[str, Any]) -> Done:
    record = decode(bytes(result["record"]))
    assert record is not None
    return Done(orjson.loads(bytes(result["model"])), [record])
