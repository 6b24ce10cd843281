from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import get_type_hints

import pytest
from typer.models import OptionInfo

from surelock.cli.main import app
from surelock.errors import NonFiniteLogitsError, SureLockError
from tests.cli.conftest import FakeLibrary, Run, assert_one_line_error

HEAVY = {"torch", "transformers", "tokenizers", "numpy", "matplotlib", "huggingface_hub"}


def test_version(run: Run) -> None:
    result = run("--version")
    assert result.stdout == f"surelock {version('surelock')}\n"
    assert result.exit_code == 0


@pytest.mark.parametrize("command", ["generate", "chat", "infill", "verify", "doctor"])
def test_help_of_each_command(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--model" in result.stdout
    assert result.stderr == ""


def test_no_command_shows_the_help_and_fails(run: Run) -> None:
    result = run()
    assert "generate" in result.stdout
    assert result.exit_code == 2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from surelock.cli.main import app\n"
        "try:\n    app(['generate', '--help'])\n"
        f"finally:\n    print('imported:', *sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == "imported:\n"


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["genrate", "x"], "Did you mean 'generate'"),
        (["generate", "--tempreature", "1", "x"], "--temperature"),
        (["generate", "--unmasking", "best", "x"], "'best' is not one of 'low_confidence', 'random'"),
        (["generate", "--gate-scope", "all", "x"], "'candidates', 'active', 'kl_passing'"),
        (["generate", "--dtype", "float64", "x"], "'float32', 'bfloat16', 'float16'"),
        (["generate", "--max-tokens", "many", "x"], "--max-tokens"),
        (["generate", "--seed"], "--seed"),
    ],
)
def test_usage_errors_are_one_line(run: Run, arguments: list[str], fragment: str) -> None:
    result = run(*arguments)
    assert_one_line_error(result, fragment)
    assert "Value error" not in result.stderr


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(SureLockError("it broke\nbadly"), 1), (NonFiniteLogitsError("NaN logits"), 1), (OSError(28, "No space left"), 1)],
)
def test_failures_are_one_line_with_exit_code_1(
    run: Run, library: FakeLibrary, error: Exception, exit_code: int
) -> None:
    library.settings["error"] = error
    assert_one_line_error(run("generate", "x"), str(error).split("\n")[-1], exit_code)


def test_bugs_are_not_hidden(run: Run, library: FakeLibrary) -> None:
    library.settings["error"] = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        run("generate", "x")


def test_interrupt_exits_with_130(run: Run, library: FakeLibrary) -> None:
    library.settings["error"] = KeyboardInterrupt()
    result = run("generate", "x")
    assert result.exit_code == 130
    assert result.stdout == result.stderr == ""


def test_error_text_cannot_steer_the_terminal(run: Run) -> None:
    result = run("generate", "-f", "/nowhere/\x1b[2J.txt")
    assert "\x1b" not in result.stderr
    assert_one_line_error(result, "\u241b[2J")


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    script = tmp_path / "many.py"
    script.write_text(
        "import sys\n"
        "from tests.cli.fake_llm import FakeLLM\n"
        "from types import ModuleType\n"
        "module = ModuleType('surelock.llm')\n"
        "module.LLM = FakeLLM\n"
        "sys.modules['surelock.llm'] = module\n"
        "from surelock.cli.main import app\n"
        "app(['generate', '-n', '8', *['one two'] * 40])\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, str(script)], stdout=writer, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(writer)
    assert result.stderr == b""
    assert result.returncode == 1


def test_no_option_is_left_to_be_named_after_its_metavar() -> None:
    """typer 0.27.2 names an option `--RULE` whose parameter is `rule`, whose metavar is RULE and that has no name."""
    pending, num_named = [app], 0
    while pending:
        group = pending.pop()
        pending += [below.typer_instance for below in group.registered_groups if below.typer_instance is not None]
        for command in group.registered_commands:
            assert command.callback is not None
            for name, hint in get_type_hints(command.callback, include_extras=True).items():
                for option in getattr(hint, "__metadata__", ()):
                    if isinstance(option, OptionInfo) and option.metavar is not None:
                        num_named += 1
                        # Inside Annotated, typer keeps the first name of an option as its default until it is used.
                        assert option.metavar.lower() != name or option.default == f"--{name}", command.callback
    assert num_named > 10


@pytest.mark.parametrize(("closed", "code"), [(1, 0), (2, 2)])
def test_closed_standard_streams_are_no_mistake(closed: int, code: int) -> None:
    arguments = ["--version"] if code == 0 else ["generate", "--no-such-option"]
    program = [sys.executable, "-c", "from surelock.cli.main import app; app()", *arguments]
    result = subprocess.run(["sh", "-c", f'"$@" {closed}>&-', "sh", *program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (code, "")


def test_a_full_disk_under_stderr_changes_no_exit_code() -> None:
    program = [sys.executable, "-c", "from surelock.cli.main import app; app()", "generate", "--no-such-option"]
    with open("/dev/full", "w") as full:
        assert subprocess.run(program, stderr=full).returncode == 2
