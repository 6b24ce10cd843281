"""The machine, versions and commit a result was measured with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """Plain values for a result file."""
    return {
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "surelock": _version("surelock"),
        # A copy of the tree without git says what it is a copy of.
        "commit": os.environ.get("SURELOCK_COMMIT") or _git("rev-parse", "HEAD"),
        "uncommitted_changes": _uncommitted_changes(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _uncommitted_changes() -> bool | None:
    """Whether the package differs from the commit; None where that cannot be known."""
    if os.environ.get("SURELOCK_COMMIT"):
        return None
    changes = _git("status", "--porcelain", "--", ".")
    return None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """What git says in the package's folder; None where it is not part of a checkout."""
    root = Path(__file__).parent
    if not any((parent / ".git").exists() for parent in root.parents):
        return None
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
