"""One replica behind Ray Serve: the same application over the same engine, in an actor of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from surelock.config import EngineConfig
from surelock.errors import EngineError
from surelock.llm import LLM
from surelock.ray_cluster import import_ray
from surelock.server.app import create_app
from surelock.server.guard import Guard
from surelock.server.log import log_to_stderr
from surelock.server.prepare import tokenizer_of
from surelock.server.run import answer_promptly
from surelock.server.service import Service
from surelock.server.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """What a replica is made from.

    Attributes:
        model: arguments of `LLM`.
        engine_config: without `num_threads` it has what Ray sets, one for each CPU it reserves.
    """

    model: Mapping[str, Any]
    engine_config: EngineConfig
    settings: ServerSettings


def build_app(options: ReplicaOptions) -> Guard:
    """Load the model and make the application; Ray Serve starts and stops it.

    Raises:
        ModelError: the model cannot be used.
    """
    llm = LLM(**options.model, engine_config=options.engine_config)
    tokenizer_of(llm)
    log_to_stderr()
    app = create_app(Service(llm, options.settings), adds_request_id=False)
    answer_promptly()
    return app


class Replica:
    """What Ray Serve asks of a replica besides HTTP. `serve.ingress` adds the application as `app`."""

    app: Guard

    def __init__(self) -> None:
        self._metrics: RayMetrics | None = None

    async def drain(self) -> int:
        """Refuse new requests from now on; returns how many choices are not finished."""
        self.app.service.admission.is_draining = True
        return self.app.service.admission.num_admitted

    async def drop(self) -> None:
        """End what is left with an error."""
        await self.app.service.drop()

    def check_health(self) -> None:
        """Raise if the engine is gone or hangs: Ray Serve replaces the replica. Metrics are exported on the way.

        Raises:
            EngineError: it does.
        """
        service = self.app.service
        self._metrics = self._metrics or RayMetrics(service.metrics.registry)
        self._metrics.export()
        # A replica that ends is not to be replaced.
        if service.admission.is_draining:
            return
        if service.engine.is_stopped:
            raise EngineError("the engine's thread has ended")
        if service.silence > service.settings.hang_timeout:
            raise EngineError(f"the engine has not moved for {service.silence:.0f} s")


class RayMetrics:
    """Gives the values of a registry to Ray, whose agent on each node exports those of all replicas for Prometheus.

    Every sample becomes a gauge of its own name, for Ray's counters take differences only; Ray adds the replica's id.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        (self._metrics,) = import_ray("ray.serve.metrics")[1:]
        self._registry = registry
        self._gauges: dict[str, Any] = {}

    def export(self) -> None:
        """Set every gauge to what its sample is now."""
        for family in self._registry.collect():
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                if sample.name not in self._gauges:
                    self._gauges[sample.name] = self._metrics.Gauge(
                        sample.name, description=family.documentation, tag_keys=tuple(sample.labels)
                    )
                self._gauges[sample.name].set(sample.value, tags=dict(sample.labels))
