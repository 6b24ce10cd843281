"""How much memory a device could still give, asked of the driver or of the operating system."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

import torch

from surelock.engine.host_cpu import system_text

# Where the system does not say: what the smallest machine worth running on has.
UNKNOWN_FREE_BYTES: Final = 2 << 30


def free_bytes(device: torch.device) -> int:
    """Bytes that could be allocated on the device now.

    CUDA: what the driver has, and what torch keeps without using it. CPU: MemAvailable on Linux, or the memory cgroup's
    limit where that leaves less; elsewhere half of the machine's memory.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return _free_host_bytes(Path("/"))


def _free_host_bytes(root: Path) -> int:
    """Of the machine whose file system starts at root."""
    meminfo = system_text(root / "proc/meminfo")
    available = re.search(r"^MemAvailable:\s+([0-9]+) kB$", meminfo, re.MULTILINE)
    if available is None:
        total = total_host_bytes()
        return total // 2 if total else UNKNOWN_FREE_BYTES
    in_group = _free_group_bytes(root / "sys/fs/cgroup")
    found = 1024 * int(available[1])
    return found if in_group is None else min(found, in_group)


def _free_group_bytes(folder: Path) -> int | None:
    """What a container may still take (cgroup v2), file pages that can be dropped included; None without a limit."""
    limit, used = system_text(folder / "memory.max").strip(), system_text(folder / "memory.current").strip()
    if not limit.isdecimal() or not used.isdecimal():
        return None
    droppable = re.search(r"^inactive_file ([0-9]+)$", system_text(folder / "memory.stat"), re.MULTILINE)
    return max(0, int(limit) - int(used) + (int(droppable[1]) if droppable else 0))


def total_host_bytes() -> int | None:
    """The machine's memory: sysconf where it knows (Linux, macOS), or macOS's sysctl; None where neither does."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        pass
    try:
        answer = subprocess.run(["sysctl", "-n", "hw.memsize"], capture_output=True, text=True, check=True).stdout
        return int(answer)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
