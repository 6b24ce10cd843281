"""The one-way imports of pyproject.toml's import-linter contract hold, and the contract notices when they do not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_point_one_way() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """A package with this project's contract and nothing but one empty module for each name in it."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    package = tmp_path / "src" / "surelock"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for layer in contract["layers"]:
        for name in re.findall(r"\w+", layer):
            (package / f"{name}.py").touch()
    return tmp_path


def test_an_import_down_is_accepted(skeleton: Path) -> None:
    (skeleton / "src/surelock/cli.py").write_text("import surelock.llm\n")
    (skeleton / "src/surelock/errors.py").write_text("import surelock.output\n")
    result = lint_imports(skeleton)
    assert result.returncode == 0, result.stdout + result.stderr


REFUSED = [
    ("llm", "cli"),
    ("llm", "measure"),
    ("llm", "bench"),
    ("measure", "bench"),
    ("bench", "measure"),
    ("measure", "cli"),
    ("llm", "batch"),
    ("results", "bench"),
    ("measure", "batch"),
    ("batch", "cli"),
    ("engine", "llm"),
    ("engine", "text"),
    ("flops", "engine"),
    ("text", "engine"),
    ("decoding", "engine"),
    ("decoding", "models"),
    ("models", "decoding"),
    ("ops", "models"),
    ("errors", "ops"),
    ("params", "decoding"),
]


def test_imports_up_and_across_are_refused(skeleton: Path) -> None:
    for module, imported in REFUSED:
        with (skeleton / f"src/surelock/{module}.py").open("a") as file:
            file.write(f"import surelock.{imported}\n")
    result = lint_imports(skeleton)
    assert result.returncode == 1, result.stdout + result.stderr
    for module, imported in REFUSED:
        assert f"surelock.{module} is not allowed to import surelock.{imported}:" in result.stdout


def test_a_module_without_a_layer_is_refused(skeleton: Path) -> None:
    (skeleton / "src/surelock/stray.py").touch()
    result = lint_imports(skeleton)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "surelock.stray" in result.stdout
