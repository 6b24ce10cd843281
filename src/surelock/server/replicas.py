"""`serve_on_ray`: replicas of the server behind Ray Serve, which routes, restarts and stops them.

Every replica is the whole application with an engine of its own; nothing is scheduled here. This process starts them,
waits for a signal, and ends them in order.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from prometheus_client import CollectorRegistry

from surelock.config import EngineConfig
from surelock.errors import EngineError, ParameterError, shown_error
from surelock.llm import LLM
from surelock.ray_cluster import connected, import_ray
from surelock.server.app import create_app
from surelock.server.guard import Guard
from surelock.server.log import log_to_stderr
from surelock.server.prepare import tokenizer_of
from surelock.server.run import answer_promptly
from surelock.server.service import Service
from surelock.server.settings import ServerSettings
from surelock.server.signals import begins_drain, handling

NAME: Final = "surelock"
# Between two looks at the replicas.
_WATCH_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.1
# For all replicas to answer; an engine that hangs does not keep its event loop from it.
_ASK_SECONDS: Final = 30.0
_log = logging.getLogger("surelock.server")


class Stopped(BaseException):
    """A signal came before the replicas were there."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """The first signal asks for the end, the second ends the process."""

    def __init__(self) -> None:
        self.is_asked = False
        self.interrupts = True

    def listening(self) -> AbstractContextManager[None]:
        """Take signals in; only in the main thread."""
        return handling(self._take_in)

    def _take_in(self, number: int, frame: FrameType | None) -> None:
        if self.interrupts and not self.is_asked:
            self.is_asked = True
            raise Stopped(number)
        self.is_asked |= begins_drain(number, is_draining=self.is_asked)


def serve_on_ray(options: ReplicaOptions, *, num_replicas: int | None = None, address: str | None = None) -> int:
    """Serve until a signal; returns the exit code: 0 after a drain, 1 if requests had to be dropped.

    Args:
        num_replicas: None: one for each GPU of the cluster, or one.
        address: see `connected`.

    Raises:
        ParameterError: Ray is not installed, no cluster answers, or it serves something already.
        EngineError: the replicas did not start, or the cluster is gone.
    """
    ray, serve = import_ray("ray.serve")
    if options.settings.port == 0:
        raise ParameterError("port is 0, a free one, which Ray Serve cannot find on every machine: choose one")
    signals = Signals()
    with signals.listening():
        try:
            with connected(ray, address, shows_workers=True):
                return _serve(ray, serve, options, num_replicas, signals)
        except Stopped as stopped:
            return 128 + stopped.number


def _serve(ray: Any, serve: Any, options: ReplicaOptions, num_replicas: int | None, signals: Signals) -> int:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if serve.status().proxies:
        raise ParameterError(
            "Ray Serve runs on this cluster already, with an address and keys that this command would change: stop it "
            "with 'serve shutdown', or choose another cluster with --ray-address"
        )
    try:
        replicas = Replicas(ray, serve, options, num_replicas)
        signals.interrupts = False
        replicas.watch(signals)
        return replicas.drain()
    finally:
        serve.shutdown()


class Replicas:
    """The application on Ray Serve, running when this is made; EngineError if it does not start."""

    def __init__(self, ray: Any, serve: Any, options: ReplicaOptions, num_replicas: int | None) -> None:
        self._serve = serve
        self._settings = settings = options.settings
        num_gpus = int(ray.cluster_resources().get("GPU", 0)) if options.model.get("device") != "cpu" else 0
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        serve.start(
            proxy_location="HeadOnly" if settings.is_loopback else "EveryNode",
            http_options={"host": settings.host, "port": settings.port},
            logging_config=quiet,
        )
        deployment = serve.deployment(
            serve.ingress(lambda: build_app(options))(Replica),
            name=NAME,
            num_replicas=num_replicas or max(1, num_gpus),
            ray_actor_options={"num_cpus": options.engine_config.num_threads or 1, "num_gpus": 1 if num_gpus else 0},
            # Each replica refuses for itself what it has no room for, in the words of its own interface.
            max_ongoing_requests=settings.max_connections,
            max_queued_requests=settings.max_connections,
            graceful_shutdown_timeout_s=settings.drain_timeout,
            graceful_shutdown_wait_loop_s=_POLL_SECONDS,
            logging_config=quiet,
        )
        try:
            self._handle = serve.run(deployment.bind(), name=NAME, route_prefix="/")
        except Exception as error:
            raise EngineError(f"the replicas did not start ({shown_error(error)}); Ray's log says why") from error
        # Ray takes any free ports, unless `ray start` is told which.
        agents = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes() if node["Alive"]]
        _log.info("metrics of the replicas at http://%s/metrics", "/metrics, http://".join(agents))
        _log.info("serving at http://%s:%d with Ray Serve", settings.host, settings.port)

    def watch(self, signals: Signals) -> None:
        """Return when a signal has come; EngineError if the application is gone."""
        status, looked_at = "RUNNING", time.monotonic()
        while not signals.is_asked:
            time.sleep(_POLL_SECONDS)
            if time.monotonic() - looked_at < _WATCH_SECONDS:
                continue
            now, looked_at = self._status(), time.monotonic()
            if now != status:
                _log.warning("the replicas are %s", now)
                status = now

    def drain(self) -> int:
        """Refuse new requests and wait for the others; returns the exit code."""
        until = time.monotonic() + self._settings.drain_timeout
        # Told again and again: a replica may have taken the place of another one meanwhile.
        while any(self._ask("drain")):
            if time.monotonic() >= until:
                _log.error("requests were not finished in time")
                # Each of them ends with an error, which its stream tells.
                self._ask("drop")
                return 1
            time.sleep(_POLL_SECONDS)
        return 0

    def _ask(self, method: str) -> list[Any]:
        """Call a method of every replica."""
        try:
            return list(self._handle.broadcast(method).results(timeout_s=_ASK_SECONDS))
        except Exception as error:
            raise EngineError(f"the replicas do not answer ({shown_error(error)}); they are ended") from error

    def _status(self) -> str:
        try:
            return str(self._serve.status().applications[NAME].status.value)
        except Exception as error:
            raise EngineError(f"the replicas are gone ({shown_error(error)}): start them again") from error


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
    """Load the model and make the application, which Ray Serve starts and stops."""
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
        """Raise EngineError if the engine is gone or hangs: Ray Serve replaces the replica. Exports metrics too."""
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
