"""The project's habits, checked where everything else is: style, types, packaging and the lock file."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zipfile import ZipFile

import pytest

from surelock.models.packed_weights import PACKED_FILE

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "surelock"
MAX_TREE_BYTES = 48 << 20
MAX_WHEEL_BYTES = 45_000_000
USERS_EXTRAS = ["eval", "parquet", "plots", "ray", "serve"]


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, errors="replace", check=False
    )


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize(
    "arguments",
    [("ruff", "check", "."), ("ruff", "format", "--check", "--diff", "."), ("mypy",)],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_check_is_clean(arguments: tuple[str, ...]) -> None:
    result = run_module(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr


def test_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    result = run_module("hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("surelock/")}
        licenses = {Path(name).name for name in archive.namelist() if "/licenses/" in name}
    source = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == source
    assert {"surelock/py.typed", f"surelock/embedded/{PACKED_FILE}", "surelock/embedded/README.md"} <= packed
    assert {f"surelock/measure/judge/{PACKED_FILE}", "surelock/measure/data/text_test.jsonl.xz"} <= packed
    assert {"surelock/measure/data/LICENCES.md", "surelock/measure/judge/README.md"} <= packed
    assert licenses == {"LICENSE", "NOTICE"}
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES


def test_the_working_tree_is_small_enough_to_move() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("git does not read this checkout")
    paths = [ROOT / os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]
    sizes = {path: path.lstat().st_size for path in paths if path.exists()}
    assert len(sizes) > 100
    largest = sorted(sizes, key=lambda path: -sizes[path])[:5]
    assert sum(sizes.values()) <= MAX_TREE_BYTES, [f"{path.relative_to(ROOT)}: {sizes[path]}" for path in largest]


def imported_packages(file: Path) -> Iterator[str]:
    """Top-level packages a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("src", USERS_EXTRAS),
        ("tests", [*USERS_EXTRAS, "test"]),
        ("training", [*USERS_EXTRAS, "test"]),
        ("studies", USERS_EXTRAS),
    ],
)
def test_every_imported_package_is_declared(project: dict[str, Any], folder: str, extras: list[str]) -> None:
    optional = project["project"]["optional-dependencies"]
    requirements = [*project["project"]["dependencies"], *(line for extra in extras for line in optional[extra])]
    # A part of pydantic with a name of its own, which pydantic pins; triton, which torch's CUDA builds bring; Pillow,
    # which matplotlib writes PNG with.
    undeclared = {"pydantic_core", "triton", "PIL", "surelock", "tests", "training", "studies"}
    declared = {import_name(requirement) for requirement in requirements} | undeclared
    imported = {name for file in (ROOT / folder).rglob("*.py") for name in imported_packages(file)}
    assert not imported - sys.stdlib_module_names - declared


def import_name(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement, maxsplit=1)[0].replace("-", "_")


def test_version_is_written_once(project: dict[str, Any]) -> None:
    written = project["project"]["version"]
    assert version("surelock") == written
    literal = re.compile(rf"""["']{re.escape(written)}["']""")
    assert not [path.name for path in PACKAGE.rglob("*.py") if literal.search(path.read_text())]


def test_lock_file_names_only_the_public_index() -> None:
    text = (ROOT / "uv.lock").read_text()
    hosts = {urlsplit(url).netloc for url in re.findall(r'"((?:https?|file|git)[^"]*://[^"]*)"', text)}
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    sources = {key for package in tomllib.loads(text)["package"] for key in package["source"]}
    assert sources == {"registry", "editable"}


def test_lock_file_matches_the_declared_dependencies(project: dict[str, Any]) -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (own,) = [package for package in lock["package"] if package["name"] == "surelock"]
    requires = own["metadata"]["requires-dist"]

    def locked(extra: str | None) -> set[str]:
        # A marker may also name a platform, before or after the extra.
        entries = [(entry["name"], re.findall(r"extra == '(\w+)'", entry.get("marker", ""))) for entry in requires]
        return {name for name, extras in entries if extras == ([extra] if extra else [])}

    def declared(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w-]", requirement, maxsplit=1)[0] for requirement in requirements}

    assert own["version"] == project["project"]["version"]
    assert lock["requires-python"] == project["project"]["requires-python"]
    assert locked(None) == declared(project["project"]["dependencies"])
    for extra, requirements in project["project"]["optional-dependencies"].items():
        assert locked(extra) == declared(requirements), f"run uv lock: extra {extra} changed"


def test_nothing_ends_the_process_of_the_tests() -> None:
    assert os._exit.__module__ != "posix"
    with pytest.raises(AssertionError, match="would end the tests"):
        os._exit(0)
