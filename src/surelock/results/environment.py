"""The machine, versions and commit a result was measured with."""

from __future__ import annotations

import hashlib
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


def revision(folder: Path) -> dict[str, Any]:
    """Which version of other people's code a folder holds.

    Returns:
        commit: None where git knows none of the folder's Python files. uncommitted_changes: None there too. sha256: of
        the Python files' paths and contents, which tells copies apart.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    commit = _git("rev-parse", "HEAD", folder=folder) if _git("ls-files", "*.py", folder=folder) else None
    changes = None if commit is None else _git("status", "--porcelain", "--", ".", folder=folder)
    return {
        "commit": commit,
        "uncommitted_changes": None if changes is None else bool(changes),
        "sha256": digest.hexdigest(),
    }


def _uncommitted_changes() -> bool | None:
    """Whether the package differs from the commit; None where that cannot be known."""
    if os.environ.get("SURELOCK_COMMIT"):
        return None
    changes = _git("status", "--porcelain", "--", ".")
    return None if changes is None else bool(changes)


def _git(*arguments: str, folder: Path = Path(__file__).parent) -> str | None:
    """What git says in a folder, by default the package's; None where it is not part of a checkout."""
    if not any((parent / ".git").exists() for parent in (folder, *folder.resolve().parents)):
        return None
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
