"""Replicas behind Ray Serve: what is asked of it, against a stand-in, and (slow) the whole of it on Ray itself."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
from openai import APIStatusError, OpenAI
from prometheus_client import CollectorRegistry, Counter
from typer.testing import CliRunner

from surelock import LLM, SamplingParams
from surelock.cli.main import app
from surelock.config import EngineConfig
from surelock.errors import EngineError, ParameterError
from surelock.server import replicas
from surelock.server.app import create_app
from surelock.server.replicas import RayMetrics, Replica, ReplicaOptions, Signals, serve_on_ray
from surelock.server.service import Service
from surelock.server.settings import ServerSettings
from tests.server.running import Running, running
from tests.waiting import WAIT_SECONDS

KEY = "a-key-of-the-test"


@dataclass
class FakeRay:
    """Ray Serve with one replica that says `num_left`, one after another; what was asked of it is in `log`."""

    num_gpus: int = 0
    num_left: list[int] = field(default_factory=lambda: [0])
    proxies: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None
    status_name: str = "RUNNING"
    during_run: Callable[[], None] = lambda: None
    log: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    http_options: dict[str, Any] = field(default_factory=dict)
    location: str = ""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ray, serve = ModuleType("ray"), ModuleType("ray.serve")
        vars(ray).update(
            is_initialized=lambda: False,
            init=lambda **options: self.log.append(f"init {options['address']}"),
            shutdown=lambda: self.log.append("leave"),
            nodes=lambda: [{"Alive": True, "NodeManagerAddress": "192.0.2.1", "MetricsExportPort": 9}],
            cluster_resources=lambda: {"CPU": 2.0} | ({"GPU": float(self.num_gpus)} if self.num_gpus else {}),
        )
        vars(serve).update(
            status=self.status,
            start=self.start,
            ingress=lambda build: lambda replica: (build, replica),
            deployment=self.deployment,
            run=self.run,
            shutdown=lambda: self.log.append("shutdown"),
        )
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.serve", serve)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def status(self) -> Any:
        applications = {"surelock": SimpleNamespace(status=SimpleNamespace(value=self.status_name))}
        return SimpleNamespace(proxies=self.proxies, applications=applications if self.status_name else {})

    def start(self, *, proxy_location: str, http_options: dict[str, Any], **_: Any) -> None:
        self.location, self.http_options = proxy_location, http_options

    def deployment(self, target: object, **options: Any) -> Any:
        self.options = options
        return SimpleNamespace(bind=lambda: target)

    def run(self, target: object, *, name: str, route_prefix: str) -> Any:
        if self.error is not None:
            raise self.error
        self.log.append(f"run {name} {route_prefix}")
        self.during_run()
        return SimpleNamespace(broadcast=self.broadcast)

    def broadcast(self, method: str) -> Any:
        self.log.append(method)
        left = self.num_left.pop(0) if method == "drain" and len(self.num_left) > 1 else self.num_left[0]
        return SimpleNamespace(results=lambda timeout_s: [left])


def options(**settings: Any) -> ReplicaOptions:
    chosen = {"model": None, "device": settings.pop("device", None)}
    threads = settings.pop("threads", None)
    return ReplicaOptions(chosen, EngineConfig(num_threads=threads), ServerSettings(port=8000, **settings))


def signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes while the replicas are watched."""
    sleep = time.sleep
    sent: list[bool] = []

    def sleep_and_signal(seconds: float) -> None:
        if not sent:
            sent.append(True)
            signal.raise_signal(signal.SIGTERM)
        sleep(min(seconds, 0.001))

    monkeypatch.setattr(time, "sleep", sleep_and_signal)


def test_a_signal_drains_and_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(num_left=[3, 1, 0])
    ray.install(monkeypatch)
    signalled(monkeypatch)
    before = signal.getsignal(signal.SIGTERM)
    assert serve_on_ray(options(), num_replicas=2) == 0
    assert ray.log == ["init local", "run surelock /", "drain", "drain", "drain", "shutdown", "leave"]
    assert signal.getsignal(signal.SIGTERM) == before
    assert (ray.location, ray.http_options) == ("HeadOnly", {"host": "127.0.0.1", "port": 8000})
    assert ray.options["num_replicas"] == 2
    assert ray.options["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 0}


def test_what_is_not_finished_in_time_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(num_left=[3])
    ray.install(monkeypatch)
    signalled(monkeypatch)
    assert serve_on_ray(options(drain_timeout=0.05)) == 1
    assert ray.log[-3:] == ["drop", "shutdown", "leave"]


def test_each_gpu_gets_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(num_gpus=3)
    ray.install(monkeypatch)
    signalled(monkeypatch)
    serve_on_ray(options(threads=4, public=True, host="0.0.0.0", api_keys=(KEY,)), address="auto")
    assert ray.log[0] == "init auto"
    assert ray.options["num_replicas"] == 3
    assert ray.options["ray_actor_options"] == {"num_cpus": 4, "num_gpus": 1}
    assert (ray.location, ray.http_options["host"]) == ("EveryNode", "0.0.0.0")


def test_a_signal_before_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(during_run=lambda: signal.raise_signal(signal.SIGINT))
    ray.install(monkeypatch)
    assert serve_on_ray(options()) == 128 + signal.SIGINT
    assert ray.log == ["init local", "run surelock /", "shutdown", "leave"]


def test_a_second_signal_ends_the_process() -> None:
    code = (
        "import signal; from surelock.server.replicas import Signals\n"
        "own = Signals(); own.interrupts = False\n"
        "with own.listening():\n    signal.raise_signal(15); assert own.is_asked; signal.raise_signal(15)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 128 + 15


def test_a_cluster_that_serves_already_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(proxies={"node": "HEALTHY"})
    ray.install(monkeypatch)
    with pytest.raises(ParameterError, match="Ray Serve runs on this cluster already"):
        serve_on_ray(options())
    assert ray.log == ["init local", "leave"]


def test_replicas_that_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(error=RuntimeError("Deploying\nfailed"))
    ray.install(monkeypatch)
    with pytest.raises(EngineError, match=r"the replicas did not start \(RuntimeError: Deploying failed\)"):
        serve_on_ray(options())
    assert ray.log[-2:] == ["shutdown", "leave"]


def test_replicas_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(status_name="")
    ray.install(monkeypatch)
    monkeypatch.setattr(replicas, "_WATCH_SECONDS", 0.0)
    with pytest.raises(EngineError, match="the replicas are gone"):
        serve_on_ray(options())
    assert ray.log[-2:] == ["shutdown", "leave"]


def test_no_cluster_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay()
    ray.install(monkeypatch)

    def refuse(**_: Any) -> None:
        raise ConnectionError("Could not find\nany running Ray instance.")

    vars(sys.modules["ray"])["init"] = refuse
    with pytest.raises(ParameterError, match=r"no Ray cluster answers at auto \(Could not find any running"):
        serve_on_ray(options(), address="auto")


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ParameterError, match=r"--ray needs Ray: pip install 'surelock\[ray\]'"):
        serve_on_ray(options())


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--replicas", "2"], "--replicas has no effect without --ray"),
        (["--ray-address", "auto"], "--ray-address has no effect without --ray"),
        (["--ray", "--public"], "no key"),
        (["--ray", "--port", "0"], "port is 0"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], fragment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeRay().install(monkeypatch)
    monkeypatch.delenv("SURELOCK_API_KEY", raising=False)
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code != 0
    assert fragment in " ".join(result.output.split())


@pytest.fixture
def server(llm: LLM) -> Iterator[Running]:
    with running(llm, hang_timeout=30) as own:
        yield own


def silent(service: Service, seconds: float) -> Service:
    """The same, but its engine has not moved for so long. The server keeps its own, or it would end this process."""
    own = copy(service)
    own.__class__ = type("SilentService", (Service,), {"silence": seconds})
    return own


def replica_of(service: Service, monkeypatch: pytest.MonkeyPatch) -> Replica:
    metrics = ModuleType("ray.serve.metrics")
    vars(metrics).update(Gauge=FakeGauge)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.serve", ModuleType("ray.serve"))
    monkeypatch.setitem(sys.modules, "ray.serve.metrics", metrics)
    replica = Replica()
    replica.app = create_app(service)
    return replica


class FakeGauge:
    """Remembers what it was set to."""

    def __init__(self, name: str, *, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys = name, tag_keys
        self.values: dict[tuple[str, ...], float] = {}

    def set(self, value: float, *, tags: dict[str, str]) -> None:
        assert tuple(tags) == self.tag_keys
        self.values[tuple(tags.values())] = value


def test_a_replica_is_as_healthy_as_its_engine(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    replica_of(server.service, monkeypatch).check_health()
    replica = replica_of(silent(server.service, 31.0), monkeypatch)
    with pytest.raises(EngineError, match="has not moved for 31 s"):
        replica.check_health()


def test_a_replica_that_drains(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = replica_of(silent(server.service, 1e9), monkeypatch)
    assert asyncio.run(replica.drain()) == 0
    refused = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    # Ray Serve would start another one.
    replica.check_health()


def test_metrics_go_to_ray_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = ModuleType("ray.serve.metrics")
    vars(metrics).update(Gauge=FakeGauge)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.serve.metrics", metrics)
    registry = CollectorRegistry()
    counter = Counter("things", "Things.", ["kind"], registry=registry)
    own = RayMetrics(registry)
    for value in (1.0, 3.0):
        counter.labels("a").inc(value)
        own.export()
    assert {name: gauge.values for name, gauge in own._gauges.items()} == {"things_total": {("a",): 4.0}}


def test_signals_leave_the_handlers_that_were_there() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Signals().listening():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


class RayProcess:
    """`surelock serve --ray` with two replicas."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-c", "from surelock.cli.main import app; app()", "serve", "--ray"]
        command += ["--replicas", "2", "--port", str(port), "--device", "cpu"]
        self.popen = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"SURELOCK_API_KEY": KEY},
        )
        self.url = f"http://127.0.0.1:{port}"
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.until(lambda: any("serving at" in line for line in self.lines))

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert self.popen.poll() is None, self.lines
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.1)

    @property
    def replica_pids(self) -> set[int]:
        """Of the replicas that have answered something."""
        found = (re.search(r"ServeReplica:surelock:surelock pid=(\d+)", line) for line in self.lines)
        return {int(each[1]) for each in found if each}

    def close(self) -> None:
        self.popen.terminate()
        try:
            self.popen.wait(WAIT_SECONDS)
        finally:
            self.popen.kill()
            self.reader.join(WAIT_SECONDS)
            assert self.popen.stdout is not None
            self.popen.stdout.close()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line)


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayProcess]:
    pytest.importorskip("ray.serve")
    own = RayProcess(free_port())
    try:
        yield own
    finally:
        own.close()


@contextmanager
def client_of(cluster: RayProcess, key: str = KEY) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.url}/v1", api_key=key, max_retries=0, timeout=WAIT_SECONDS) as client:
        yield client


PROMPTS = ("The sea was", "Call me", "It was a dark", "Once upon a time")
on_ray = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


class TestOnRay:
    """In this order: the last ones end replicas."""

    pytestmark = on_ray

    def test_answers_are_those_of_a_solo_run(self, cluster: RayProcess, llm: LLM) -> None:
        with client_of(cluster) as client:
            model = client.models.list().data[0].id
            for prompt in PROMPTS:
                expected = llm.generate(prompt, SamplingParams(max_tokens=12))[0].text
                answer = client.completions.create(model=model, prompt=prompt, max_tokens=12)
                assert answer.choices[0].text == expected
                streamed = client.completions.create(model=model, prompt=prompt, max_tokens=12, stream=True)
                assert "".join(chunk.choices[0].text for chunk in streamed) == expected

    def test_keys_hosts_and_raw_paths(self, cluster: RayProcess) -> None:
        with client_of(cluster, "another-key-1") as client, pytest.raises(APIStatusError) as refused:
            client.models.list()
        assert refused.value.status_code == 401
        with httpx.Client(base_url=cluster.url, trust_env=False) as http:
            assert http.get("/livez").status_code == 200
            assert http.get("/v1/models").status_code == 401
            assert http.get("/%6civez").status_code == 401
            assert http.get(f"{cluster.url}//livez").status_code == 401
            key = {"Authorization": f"Bearer {KEY}"}
            assert http.get("/v1/models", headers=key | {"Host": "evil.example"}).status_code == 403
            answer = http.get("/version", headers=key)
            assert answer.status_code == 200
            assert len(answer.headers.get_list("x-request-id")) == 1
            assert http.get("/").headers["content-security-policy"].startswith("default-src 'none'")

    def test_a_client_that_leaves_frees_its_place(self, cluster: RayProcess) -> None:
        body = {"prompt": "a", "max_tokens": 400, "stream": True}
        key = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=cluster.url, headers=key, timeout=WAIT_SECONDS, trust_env=False) as http:
            with http.stream("POST", "/v1/completions", json=body) as answer:
                next(answer.iter_lines())
            pattern = re.compile(r'surelock_aborts_total\{reason="disconnect"\} 1\.0')
            # Either replica may have had it.
            cluster.until(lambda: bool(pattern.search(http.get("/metrics").text)))

    def test_ray_exports_the_metrics_of_each_replica(self, cluster: RayProcess) -> None:
        (url,) = {match[0] for line in cluster.lines if (match := re.search(r"http://\S+/metrics", line))}

        def replicas_seen() -> set[str]:
            text = httpx.get(url, timeout=WAIT_SECONDS, trust_env=False).text
            return set(re.findall(r'^ray_surelock_requests_running\{.*replica="(\w+)"', text, re.MULTILINE))

        cluster.until(lambda: len(replicas_seen()) == 2)

    def test_a_replica_that_is_killed_is_replaced(self, cluster: RayProcess) -> None:
        key = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=cluster.url, headers=key, timeout=WAIT_SECONDS, trust_env=False) as http:

            def status() -> int:
                return http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code

            cluster.until(lambda: status() == 200 and len(cluster.replica_pids) >= 2)
            before = cluster.replica_pids
            os.kill(min(before), signal.SIGKILL)
            statuses = [status() for _ in range(40)]
            # What was sent to it before Ray noticed is lost.
            assert statuses.count(200) >= 37
            cluster.until(lambda: status() == 200 and bool(cluster.replica_pids - before))

    def test_a_signal_drains(self, cluster: RayProcess) -> None:
        key = {"Authorization": f"Bearer {KEY}"}
        body = {"prompt": "a", "max_tokens": 120, "stream": True}
        with httpx.Client(base_url=cluster.url, headers=key, timeout=WAIT_SECONDS, trust_env=False) as http:
            with http.stream("POST", "/v1/completions", json=body) as answer:
                lines = answer.iter_lines()
                assert next(lines).startswith("data: ")
                cluster.popen.send_signal(signal.SIGTERM)

                def is_refused() -> bool:
                    refused = http.post("/v1/completions", json=body | {"max_tokens": 1, "stream": False})
                    return refused.status_code == 503 and refused.json()["error"]["code"] == "draining"

                cluster.until(is_refused)
                rest = [line for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            assert '"finish_reason":"length"' in rest[-2]
        assert cluster.popen.wait(WAIT_SECONDS) == 0
