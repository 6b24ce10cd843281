"""Free memory of this machine, and of machines made of files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from surelock.engine.free_memory import UNKNOWN_FREE_BYTES, _free_host_bytes, free_bytes

MEMINFO = "MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:    8000000 kB\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_this_machine_has_some() -> None:
    found = free_bytes(torch.device("cpu"))
    assert 1 << 20 < found <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ({}, 8_192_000_000),
        ({"memory.max": "max\n", "memory.current": "5000\n"}, 8_192_000_000),
        ({"memory.max": "1000000\n", "memory.current": "700000\n"}, 300_000),
        (
            {"memory.max": "1000000\n", "memory.current": "700000\n", "memory.stat": "anon 1\ninactive_file 200000\n"},
            500_000,
        ),
        ({"memory.max": "1000\n", "memory.current": "5000\n"}, 0),
        ({"memory.max": "99000000000\n", "memory.current": "0\n"}, 8_192_000_000),
        ({"memory.max": "", "memory.current": "garbage"}, 8_192_000_000),
    ],
)
def test_linux(tmp_path: Path, group: dict[str, str], expected: int) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO, **{f"sys/fs/cgroup/{name}": text for name, text in group.items()}})
    assert _free_host_bytes(tmp_path) == expected


def unknown(*_: object, **__: object) -> Any:
    raise OSError


def test_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert _free_host_bytes(tmp_path) == 2_048_000
    monkeypatch.setattr(os, "sysconf", unknown)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "17179869184\n"))
    assert _free_host_bytes(tmp_path) == 8 << 30
    monkeypatch.setattr(subprocess, "run", unknown)
    assert _free_host_bytes(tmp_path) == UNKNOWN_FREE_BYTES
