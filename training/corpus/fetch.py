"""Packages, downloaded by the ordinary client of their registry: pip, npm or apt-get. Nothing is installed or run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from training.corpus.package import Package, PackageError


@dataclass(frozen=True, slots=True)
class Fetched:
    """A package's file on the disk; `version` differs from the pinned one only where that was allowed."""

    path: Path
    version: str
    sha256: str


def fetch(package: Package, folder: Path, *, any_debian_version: bool = False) -> Fetched:
    """Download a package unless it is in `folder`, and check it against its pinned SHA-256.

    Debian keeps only the newest version of a package, so `any_debian_version` takes what apt-get offers, unchecked but
    for apt-get's own signatures.

    Raises:
        PackageError: the client is missing or fails, or the file is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / package.file
    if any_debian_version and package.registry == "debian":
        return _newest(package, folder)
    if not path.exists():
        _run(_command(package, package.requirement), folder, package.requirement)
    if not path.exists():
        raise PackageError(f"{package.requirement} came without the file {package.file}: look into {folder}")
    digest = _sha256(path)
    if digest != package.sha256:
        raise PackageError(
            f"{path} has SHA-256 {digest}, not {package.sha256}: remove it and run the same command again"
        )
    return Fetched(path, package.version, digest)


def _newest(package: Package, folder: Path) -> Fetched:
    pattern = f"{package.name}_*.deb"
    if not any(folder.glob(pattern)):
        _run(_command(package, package.name), folder, package.name)
    paths = sorted(folder.glob(pattern))
    if len(paths) != 1:
        raise PackageError(f"{folder} has {len(paths)} files {pattern}, not 1: keep the one to read")
    return Fetched(paths[0], unquote(paths[0].name.split("_")[1]), _sha256(paths[0]))


def _command(package: Package, requirement: str) -> list[str]:
    if package.registry == "pypi":
        # Only a wheel is unpacked without running its code.
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        return [sys.executable, "-m", "pip", "download", *options, requirement]
    if package.registry == "npm":
        return ["npm", "pack", "--silent", "--ignore-scripts", requirement]
    return ["apt-get", "--quiet", "download", requirement]


def _run(command: list[str], folder: Path, requirement: str) -> None:
    try:
        result = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        raise PackageError(f"{requirement} cannot be downloaded: {command[0]} is not installed") from None
    if result.returncode:
        reason = (result.stderr.strip() or "no reason given").splitlines()[-1]
        raise PackageError(
            f"{requirement} cannot be downloaded: {reason} (put the file into {folder}, "
            "or pass --any-debian-version if it is a Debian package of another version)"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
