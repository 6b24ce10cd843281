"""What the processor can do and how much of it this process may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import torch

from surelock.engine.system_files import system_text

# Flags of /proc/cpuinfo: tiles of x86, then vectors of x86 and of ARM. With tiles, products in bfloat16 took a sixth of
# the time of float32; with avx512_bf16 alone 1.6 times, and with neither 4.7 times (1,104 rows of the embedded model).
BFLOAT16_TILES: Final = "amx_bf16"
BFLOAT16_UNITS: Final = (BFLOAT16_TILES, "avx512_bf16", "bf16")


def num_usable_cpus(root: Path = Path("/")) -> float:
    """Processors this process may run on, or those its control group has time for if that is less.

    The latter is what `docker run --cpus` sets; it may be a fraction. `root` is where the machine's file system starts.
    """
    num = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root / "sys/fs/cgroup")
    return num if quota is None else min(num, quota)


def bfloat16_unit(root: Path = Path("/")) -> str | None:
    """The fastest unit for products in bfloat16; None if there is none, or no Linux to say so."""
    lines = system_text(root / "proc/cpuinfo").splitlines()
    # x86 calls them flags, ARM features.
    flags = next((line.split() for line in lines if line.lower().startswith(("flags", "features"))), [])
    # Without oneDNN torch does not use them.
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    return next((unit for unit in BFLOAT16_UNITS if unit in flags), None)


def _quota(folder: Path) -> float | None:
    """Processors' worth of time a container gets: cgroup v2, or v1; None without a limit."""
    numbers = system_text(folder / "cpu.max").split()
    if not numbers:
        numbers = [system_text(folder / f"cpu/cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    # "max" or -1: no limit.
    if len(numbers) != 2 or not all(number.isdecimal() and int(number) > 0 for number in numbers):
        return None
    return int(numbers[0]) / int(numbers[1])
