"""The Ray worker against a stand-in that moves spans as Ray Data does, and (slow) against Ray itself."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from surelock import LLM, SamplingParams
from surelock.batch.decode import local_worker
from surelock.batch.job import run_job
from surelock.batch.ray_worker import ray_worker
from surelock.config import EngineConfig
from surelock.errors import JobError, ParameterError
from tests.batch.jobs import job, read_lines, write_lines
from tests.checkpoints import write_checkpoint


@dataclass
class FakeRay:
    """Spans through one actor, the last first; the span at `repeated` comes back twice, as after a lost actor.

    At the span `fails_at` it raises a RayError.
    """

    repeated: int | None = None
    fails_at: int | None = None
    num_gpus: int = 0
    spans: list[dict[str, bytes]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    class RayError(Exception):
        pass

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ray, data = ModuleType("ray"), ModuleType("ray.data")
        namespace: dict[str, Any] = {
            "is_initialized": lambda: False,
            "init": self.init,
            "shutdown": lambda: self.log.append("shutdown"),
            "cluster_resources": lambda: {"CPU": 2.0} | ({"GPU": float(self.num_gpus)} if self.num_gpus else {}),
            "exceptions": SimpleNamespace(RayError=self.RayError),
        }
        vars(ray).update(namespace)
        context = SimpleNamespace(enable_progress_bars=True)
        vars(data).update(
            from_items=self.from_items,
            ActorPoolStrategy=lambda *, size: SimpleNamespace(size=size),
            DataContext=SimpleNamespace(get_current=lambda: context),
        )
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.data", data)

    def init(self, **options: Any) -> None:
        # As Ray does.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        self.log.append("init")

    def from_items(self, items: list[dict[str, bytes]], *, override_num_blocks: int) -> FakeRay:
        assert override_num_blocks == len(items)
        self.spans = items
        return self

    def map_batches(self, actor: Callable[..., Any], **options: Any) -> FakeRay:
        assert options["batch_size"] == 1
        self.actor, self.options = actor, options
        return self

    def iter_rows(self) -> Iterator[dict[str, bytes]]:
        actor = self.actor(**self.options["fn_constructor_kwargs"])
        for index in reversed(range(len(self.spans))):
            if index == self.fails_at:
                raise self.RayError("node\ndied")
            for _ in range(2 if index == self.repeated else 1):
                result = actor({"span": [self.spans[index]["span"]]})
                for record, model in zip(result["record"], result["model"], strict=True):
                    yield {"record": record, "model": model}


ROWS: list[object] = [
    {"prompt_token_ids": [number, 2], "max_tokens": 1 + number % 4, "temperature": 1, "custom_id": str(number % 20)}
    for number in range(1, 25)
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lines(tmp_path / "in.jsonl", [*ROWS, b"not JSON"])
    return tmp_path


def expected(folder: Path, model: Path) -> dict[str, bytes]:
    (folder / "local").mkdir(exist_ok=True)
    write_lines(folder / "local" / "in.jsonl", [*ROWS, b"not JSON"])
    run_job(job(folder / "local"), local_worker(lambda: LLM(model)))
    return outputs(folder / "local")


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("out*.jsonl")}


def worker(model: Path, num_actors: int | None = 2) -> Any:
    return ray_worker({"model": str(model), "device": None}, EngineConfig(max_batch_size=4), num_actors=num_actors)


def test_the_files_are_those_of_one_process(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(repeated=1)
    ray.install(monkeypatch)
    before = signal.getsignal(signal.SIGTERM)
    outcome = run_job(job(folder), worker(model))
    assert outputs(folder) == expected(folder, model)
    assert outcome.totals.num_done == 25
    assert outcome.totals.num_failed == 5
    assert len(ray.spans) == 7
    assert ray.log == ["init", "shutdown"]
    assert signal.getsignal(signal.SIGTERM) == before
    assert (ray.options["compute"].size, ray.options["num_gpus"]) == (2, None)


def test_each_gpu_gets_a_model(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(num_gpus=3)
    ray.install(monkeypatch)
    run_job(job(folder), worker(model, None))
    assert (ray.options["compute"].size, ray.options["num_gpus"]) == (3, 1)


def test_what_came_back_before_the_cluster_died_is_kept(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay(fails_at=2)
    ray.install(monkeypatch)
    with pytest.raises(JobError, match=r"Ray gave up \(RayError: node died\); the rows done before are kept"):
        run_job(job(folder), worker(model))
    assert ray.log == ["init", "shutdown"]
    # This process does the rest, in which the rows of the last spans are not.
    local = local_worker(lambda: LLM(model))
    outcome = run_job(job(folder), local)
    assert outcome.progress is not None
    assert outcome.progress.before.num_done == 13
    assert outputs(folder) == expected(folder, model)


def test_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ParameterError, match=r"--ray needs Ray: pip install 'surelock\[ray\]'"):
        worker(tmp_path)


@pytest.mark.slow
# Ray's own, about its sockets, files and future versions.
@pytest.mark.filterwarnings("default")
def test_on_real_ray(folder: Path, model: Path) -> None:
    pytest.importorskip("ray")
    level = logging.getLogger("ray.data").level
    try:
        run_job(job(folder, params=SamplingParams(seed=1)), worker(model))
    finally:
        logging.getLogger("ray.data").setLevel(level)
    assert outputs(folder) == expected(folder, model)
    assert len(read_lines(folder / "out.jsonl")) == 20
