"""What the processor can do and how much of it this process may use."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Final

# Flags of /proc/cpuinfo: tiles of x86, then vectors of x86 and of ARM. With tiles, products in bfloat16 took a sixth of
# the time of float32; with avx512_bf16 alone 1.6 times, and with neither 4.7 times (1,104 rows of the embedded model).
BFLOAT16_TILES: Final = "amx_bf16"
BFLOAT16_UNITS: Final = (BFLOAT16_TILES, "avx512_bf16", "bf16")


def prepare_openmp(root: Path = Path("/")) -> None:
    """Let OpenMP's threads sleep while they wait, and be no more than the control group has time for.

    By default they spin, and where another process has the processor that the slowest one needs, every operation takes
    as long as the scheduler's turns: 15 times as long as asleep, on two cores with four busy processes. OpenMP reads
    its variables once, as torch loads it: with torch imported before, or where the variables are set, nothing changes.
    """
    if "torch" in sys.modules:
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    num, quota = _num_cpus(), _quota(root)
    if quota is not None and quota < num:
        os.environ.setdefault("OMP_NUM_THREADS", str(math.ceil(quota)))


def num_usable_cpus(root: Path = Path("/")) -> float:
    """Processors this process may run on, or those its control group has time for if that is less.

    The latter is what `docker run --cpus` sets; it may be a fraction. `root` is where the machine's file system starts.
    """
    num, quota = _num_cpus(), _quota(root)
    return num if quota is None else min(num, quota)


def bfloat16_unit(root: Path = Path("/")) -> str | None:
    """The fastest unit for products in bfloat16; None if there is none, or no Linux to say so."""
    lines = system_text(root / "proc/cpuinfo").splitlines()
    # Imported here, as `prepare_openmp` runs before torch is.
    import torch

    # x86 calls them flags, ARM features.
    flags = next((line.split() for line in lines if line.lower().startswith(("flags", "features"))), [])
    # Without oneDNN torch does not use them.
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    return next((unit for unit in BFLOAT16_UNITS if unit in flags), None)


def system_text(path: Path) -> str:
    """The text of a file in which the system tells of itself, such as those in /proc; empty if it is not there."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota(root: Path) -> float | None:
    """Processors' worth of time that this process's control group and those around it leave; None without a limit."""
    # Of cgroup v2, and of v1.
    mounts = {"": root / "sys/fs/cgroup", "cpu": root / "sys/fs/cgroup/cpu"}
    # What a container sees is its own group, whatever the path says.
    folders = set(mounts.values())
    for line in system_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", maxsplit=2)
        for mount in (mounts[each] for each in controllers.split(",") if each in mounts):
            inner = PurePosixPath(path.lstrip("/"))
            if ".." not in inner.parts:
                folders |= {mount / each for each in (inner, *inner.parents)}
    return min((quota for folder in folders if (quota := _quota_of(folder)) is not None), default=None)


def _quota_of(folder: Path) -> float | None:
    numbers = system_text(folder / "cpu.max").split()
    if not numbers:
        numbers = [system_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    # "max" or -1: no limit.
    if len(numbers) != 2 or not all(number.isdecimal() and int(number) > 0 for number in numbers):
        return None
    return int(numbers[0]) / int(numbers[1])
