"""Processors and their units on this machine, and on machines made of files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from surelock.engine.host_cpu import bfloat16_unit, num_usable_cpus, prepare_openmp


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
    ("groups", "expected"),
    [
        # systemd's CPUQuota=, of a service and of the slice around it.
        ({"proc/self/cgroup": "0::/a.slice/b\n", "sys/fs/cgroup/a.slice/b/cpu.max": "300000 100000\n"}, 3),
        (
            {
                "proc/self/cgroup": "0::/a.slice/b\n",
                "sys/fs/cgroup/a.slice/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/a.slice/b/cpu.max": "300000 100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/own\n2:memory:/else\n0::/\n",
                "sys/fs/cgroup/cpu/own/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/own/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        # The path is the host's, and what is mounted the container's own.
        ({"proc/self/cgroup": "0::/docker/1\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/../b\n", "sys/fs/b/cpu.max": "100000 100000\n"}, 8),
    ],
)
def test_quota_of_the_group_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: dict[str, str], expected: float
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    write(tmp_path, groups)
    assert num_usable_cpus(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota", "given", "expected"),
    [
        (None, {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ("800000 100000", {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ("150000 100000", {}, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}),
        ("50000 100000", {"OMP_NUM_THREADS": "4"}, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "4"}),
        (None, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_openmp_is_prepared_before_torch_loads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, given: dict[str, str], expected: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(os, "environ", dict(given))
    if quota is not None:
        write(tmp_path, {"sys/fs/cgroup/cpu.max": quota})
    prepare_openmp(tmp_path)
    assert os.environ == given, "torch is there"
    monkeypatch.delitem(sys.modules, "torch")
    prepare_openmp(tmp_path)
    assert os.environ == expected


def test_torch_runs_with_what_was_prepared_and_with_what_its_user_sets() -> None:
    code = """
import os, surelock, sys
assert "torch" not in sys.modules
os.environ["OMP_NUM_THREADS"] = "1"
from surelock import LLM
import torch
print(torch.get_num_threads())
torch.set_num_threads(2)
LLM(device="cpu")
print(torch.get_num_threads())
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    env["OMP_DISPLAY_ENV"] = "true"
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["1", "2"]
    if sys.platform == "linux":
        assert "OMP_WAIT_POLICY = 'PASSIVE'" in ended.stderr


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
