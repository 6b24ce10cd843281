"""Processors and their units on this machine, and on machines made of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from surelock.engine.host_cpu import bfloat16_unit, num_usable_cpus


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_this_machine() -> None:
    assert 0 < num_usable_cpus() <= (os.cpu_count() or 1)
    assert bfloat16_unit() in {"amx_bf16", "avx512_bf16", "bf16", None}


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu.max": "garbage\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "0\n"}, 8),
    ],
)
def test_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: dict[str, str], expected: float) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    write(tmp_path / "sys/fs/cgroup", group)
    assert num_usable_cpus(tmp_path) == expected


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n", "amx_bf16"),
        ("flags\t\t: fpu avx512_bf16\nflags : fpu\n", "avx512_bf16"),
        ("Features\t: fp asimd bf16\n", "bf16"),
        ("flags\t\t: fpu avx2\nbugs : amx_bf16\n", None),
        ("", None),
    ],
)
def test_bfloat16_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, expected: str | None) -> None:
    write(tmp_path, {"proc/cpuinfo": cpuinfo})
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert bfloat16_unit(tmp_path) == expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert bfloat16_unit(tmp_path) is None
