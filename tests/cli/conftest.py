"""Commands run in-process against the scripted `LLM`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from surelock.cli.main import app
from tests.cli.fake_llm import FakeLLM


@dataclass
class FakeLibrary:
    """Stands in for `surelock.llm`: settings for the models it makes, and those it made."""

    settings: dict[str, Any] = field(default_factory=dict)
    made: list[FakeLLM] = field(default_factory=list)

    def make(self, model: str | None = None, **options: Any) -> FakeLLM:
        llm = FakeLLM(model, **(options | self.settings))
        self.made.append(llm)
        return llm

    @property
    def calls(self) -> list[Any]:
        """(prompt, parameters) of each request to the last model."""
        return self.made[-1].calls


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    fake = FakeLibrary()
    module = ModuleType("surelock.llm")
    module.LLM = fake.make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "surelock.llm", module)
    return fake


Run = Callable[..., Result]


@pytest.fixture
def run(library: FakeLibrary) -> Run:
    """Run `surelock` with arguments; a bug in a command fails the test instead of becoming an exit code."""

    def run_command(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, arguments, input=stdin, catch_exceptions=False)

    return run_command


def assert_one_line_error(result: Result, fragment: str, exit_code: int = 2) -> None:
    """Nothing on stdout, one line on stderr that starts with `error:` and holds the fragment."""
    assert result.stdout == ""
    assert result.stderr.startswith("error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert fragment in result.stderr
    assert result.exit_code == exit_code
