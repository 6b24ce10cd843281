"""Jobs for tests: input files, and a worker that needs no model."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pytest

from surelock.batch.job import Job
from surelock.batch.records import Record, record_of
from surelock.batch.task import Defaults, Failure, Row, Task, digest_of
from surelock.batch.work import Done, Work
from surelock.params import SamplingParams

MODEL = {"name": "fake", "commit": None, "fingerprint": "0", "dtype": "float32", "device": "cpu"}
DEFAULTS = Defaults(params=SamplingParams(), seed=7)


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    """A .jsonl file; bytes are written as they are."""
    lines = [row if isinstance(row, bytes) else orjson.dumps(row) for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def read_lines(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def row_of(values: dict[str, Any], number: int = 1) -> Row:
    return Row(number, digest_of(orjson.dumps(values)), 0, values)


def record(number: int, *, digest: int = 0, failed: bool = False, text: str = "") -> Record:
    return Record(number, digest, failed, 3, (1.0, 2.0), {"row": number, "text": text})


def answer(task: Task | Failure) -> Record:
    """What the fake model makes of a row: a function of the row alone."""
    if isinstance(task, Failure):
        return record_of(task, "fake")
    line: dict[str, Any] = {
        "row": task.row.number,
        "custom_id": task.name,
        "text": f"{task.prompt}!",
        "finish_reason": "length",
        "prompt_tokens": 1,
        "generation_tokens": 2,
        "steps": 2,
        "active_ratio": 0.5,
        "flops_ratio": 0.25,
        "seed": task.params.seed,
        "notes": [],
    }
    return Record(task.row.number, task.row.digest, False, 2, (1.0, 4.0), line)


@dataclass
class FakeWorker:
    """Answers rows one at a time; stops at the row `breaks_at` with `error`."""

    model: dict[str, Any] = field(default_factory=lambda: dict(MODEL))
    breaks_at: int | None = None
    error: BaseException = field(default_factory=KeyboardInterrupt)
    numbers: list[int] = field(default_factory=list)

    def __call__(self, work: Work) -> Generator[Done, None, None]:
        yield Done(self.model, [])
        for task in work.tasks():
            if task.row.number == self.breaks_at:
                raise self.error
            self.numbers.append(task.row.number)
            yield Done(self.model, [answer(task)])


def job(folder: Path, **overrides: Any) -> Job:
    """A job from in.jsonl to out.jsonl in a folder."""
    values: dict[str, Any] = {
        "input": folder / "in.jsonl",
        "output": folder / "out.jsonl",
        "params": SamplingParams(seed=1),
        "model": {"model": None},
    }
    return Job(**values | overrides)


def not_utf8(*cells: bytes) -> Any:
    """Arrow text that is none."""
    arrow = pytest.importorskip("pyarrow")
    return arrow.StringArray.from_buffers(len(cells), *arrow.array(cells).buffers()[1:])


def odd_columns() -> dict[str, Any]:
    """Columns of two rows, most of which Python cannot hold."""
    arrow = pytest.importorskip("pyarrow")
    return {
        "nanoseconds": arrow.array([1, 2**60 + 1], arrow.timestamp("ns")),
        "elsewhere": arrow.array([1_000_000, None], arrow.timestamp("us", "Mars/Phobos")),
        "time": arrow.array([1, 2], arrow.time64("ns")),
        "span": arrow.array([1, 2], arrow.duration("ns")),
        "far": arrow.array([10**8, 0], arrow.date32()),
        "day": arrow.array([date(2026, 1, 2), None], arrow.date32()),
        "latin": not_utf8(b"wei\xdf", b"b"),
        "raw": arrow.array([b"\xff\x00", b""]),
        "nested": arrow.array(
            [[{"at": 2**60 + 1, "x": 1.5}], None],
            arrow.list_(arrow.struct([("at", arrow.timestamp("ns", "Mars/Phobos")), ("x", arrow.float64())])),
        ),
        "kind": arrow.array(["x", "y"]).dictionary_encode(),
        "url": arrow.array(["https://a", "https://b"]),
        "body": arrow.array(["<p>", None]),
        "id": arrow.array([7, 8]),
        "nothing": arrow.nulls(2),
    }
