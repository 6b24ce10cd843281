"""Every command and every program in README.md runs.

- ```python: each block is executed, in a module of its own and an empty folder.
- ```bash with a `surelock` command: the block is executed in an empty folder. After `<!-- not run: REASON -->` only the
  names of its subcommands and options are checked.
- ```bash without one (installing, cloning) is left alone, except the two marked `<!-- main command -->`, of which all
  but the installation is executed, and `<!-- test command -->`, which .ci/run executes.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import typer

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent

INSTALLATION = "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/"
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"
LANGUAGES = {"bash", "json", "python", "text"}


@dataclass(frozen=True)
class Block:
    """A fenced block: the line its content starts at, its language, and the comment before it."""

    line: int
    language: str
    marker: str
    text: str

    @property
    def is_run(self) -> bool:
        return self.language == "bash" and not self.marker and bool(surelock_commands(self.text))


def read_blocks(text: str) -> Iterator[Block]:
    marker, language, content, start = "", None, list[str](), 0
    for number, line in enumerate(text.splitlines(), start=1):
        if language is None:
            if line.startswith("```"):
                language, content, start = line.removeprefix("```").strip(), [], number + 1
            elif comment := re.fullmatch(r"<!-- (.*) -->", line):
                marker = comment[1]
            elif line.strip():
                marker = ""
        elif line == "```":
            yield Block(start, language, marker, "\n".join(content))
            marker, language = "", None
        else:
            content.append(line)


def surelock_commands(text: str) -> list[list[str]]:
    """The arguments of every `surelock` command of a bash block, whatever pipes or lists it stands in."""
    commands: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if word and set(word) <= set("|&;"):
                if command and command[0] == "surelock":
                    commands.append(command[1:])
                command = []
            elif not command and re.match(r"\w+=", word):
                continue
            else:
                command.append(word)
    return commands


def run_bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        # Without the constraints of .ci/run's second environment, from which this test may itself be run.
        env={name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
        | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


BLOCKS = list(read_blocks((ROOT / "README.md").read_text()))


def blocks_where(blocks: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks, ids=[f"line {block.line}" for block in blocks])


def the_block(marker: str) -> Block:
    blocks = [block for block in BLOCKS if block.marker == marker]
    assert len(blocks) == 1, f"README.md has {len(blocks)} fenced blocks marked <!-- {marker} -->; it must have 1"
    return blocks[0]


def test_blocks_are_of_known_kinds() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES
    reasons = re.compile(r"main command|test command|not run: \S.*")
    assert all(reasons.fullmatch(block.marker) for block in BLOCKS if block.marker)


@blocks_where([block for block in BLOCKS if block.language == "python"])
def test_python_block_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("readme_block")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    # Leading newlines: a traceback names the line of the README.
    source = "\n" * (block.line - 1) + block.text
    exec(compile(source, str(ROOT / "README.md"), "exec"), module.__dict__)


@blocks_where([block for block in BLOCKS if block.is_run])
def test_bash_block_runs(block: Block, tmp_path: Path) -> None:
    result = run_bash(block.text, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_commands_that_are_not_run_name_existing_options() -> None:
    from surelock.cli.main import app

    root = typer.main.get_command(app)
    for block in BLOCKS:
        if not block.marker.startswith("not run: "):
            continue
        for name, *arguments in surelock_commands(block.text):
            assert name in root.commands, f"line {block.line}: surelock has no command {name}"  # type: ignore[attr-defined]
            parameters = root.commands[name].params  # type: ignore[attr-defined]
            known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
            used = {argument.partition("=")[0] for argument in arguments if re.match(r"--?[a-zA-Z]", argument)}
            assert used <= known, f"line {block.line}: surelock {name} has no {', '.join(sorted(used - known))}"


def test_main_command_runs_once_installed(tmp_path: Path) -> None:
    command = the_block("main command").text
    assert command.startswith(INSTALLATION + "surelock generate ")
    assert "\n" not in command
    result = run_bash(command.removeprefix(INSTALLATION), tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip()


def test_test_command_is_the_one_promised() -> None:
    assert the_block("test command").text == TEST_COMMAND


def run_ci(folder: Path, readme: str) -> subprocess.CompletedProcess[str]:
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "README.md").write_text(readme)
    # From elsewhere: the script finds its own checkout.
    return run_bash(shlex.quote(str(folder / ".ci" / "run")), folder.parent)


def test_ci_runs_the_test_command_verbatim_then_with_the_oldest_versions(tmp_path: Path) -> None:
    checkout = tmp_path / "a folder"
    readme = (ROOT / "README.md").read_text()
    probe = 'printf \'%s|\' .venv "$PWD" "${PIP_CONSTRAINT-}"'
    result = run_ci(checkout, readme.replace(f"```bash\n{TEST_COMMAND}\n```", f"```bash\n{probe}\n```"))
    assert result.returncode == 0, result.stdout + result.stderr
    newest = f"+ {probe}\n.venv|{checkout}||"
    constraints = ".venv-oldest/constraints.txt"
    oldest = f"+ {probe.replace('.venv', '.venv-oldest')}\n.venv-oldest|{checkout}|{constraints}|"
    assert result.stdout == newest + oldest
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    # The project's own extras have no version.
    bounds = [re.sub(r"\[.*?\]", "", each) for each in requirements if not each.startswith("surelock[")]
    pinned = (checkout / constraints).read_text().splitlines()
    for bound, pin in zip(bounds, pinned, strict=True):
        assert re.split("[,;]", bound)[0] == pin.replace("==", ">=")


def test_ci_fails_when_the_test_command_fails(tmp_path: Path) -> None:
    result = run_ci(tmp_path / "checkout", "<!-- test command -->\n\n```bash\ntrue && exit 3\n```\n")
    assert result.returncode == 3


def test_ci_refuses_a_readme_without_test_command(tmp_path: Path) -> None:
    result = run_ci(tmp_path / "checkout", "# surelock\n\n```bash\ntrue\n```\n")
    assert result.returncode == 1
    assert "no fenced block after <!-- test command -->" in result.stderr


def test_surelock_commands_are_found_anywhere_in_a_line() -> None:
    text = "pip install surelock\nX=1 surelock generate 'a | b' --json | wc -l && surelock doctor\n# surelock chat\n"
    assert surelock_commands(text) == [["generate", "a | b", "--json"], ["doctor"]]
