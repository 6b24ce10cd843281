"""Every experiment once, on a tiny random model, through the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from surelock import LLM
from surelock.cli import experiment
from surelock.cli.main import app
from surelock.eval.judge import Judge
from surelock.experiments.catalogue import quality
from tests.server.tiny_llm import tiny_llm

LIMIT = 256


class FakeJudge:
    """Three nats for the first word of a text, one for each of the others."""

    name = "fake judge"

    def negative_log_likelihood(self, prefix_texts: Sequence[str], texts: Sequence[str]) -> list[tuple[float, int]]:
        assert len(prefix_texts) == len(texts)
        return [(2.0 + len(text.split()), max(1, len(text.split()))) for text in texts]


@dataclass(frozen=True)
class Ran:
    """The run of all experiments: what was printed, and the folder of the results."""

    result: Result
    folder: Path


@pytest.fixture(scope="session")
def tiny(request: pytest.FixtureRequest) -> LLM:
    return tiny_llm(LLM(device="cpu"), max_sequence_length=LIMIT)


# Of this folder alone: what runs afterwards needs the real judge.
@pytest.fixture(scope="package")
def patched(tiny: LLM) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "load_llm", lambda *arguments: tiny)
        patch.setattr(Judge, "load", lambda *arguments, **options: FakeJudge())
        patch.setattr(quality, "QUICK", replace(quality.QUICK, task_kinds=("weekday", "unit")))
        patch.setenv("SURELOCK_COMMIT", "abc")
        yield patch


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["experiment", *arguments], catch_exceptions=False)


@pytest.fixture(scope="package")
def ran(patched: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("experiments")
    arguments = ("--quick", "--num-prompts", "2", "--lengths", "16,8/4,1024", "--device", "cpu", "--out", str(folder))
    result = run("all", *arguments)
    assert result.exit_code == 0, result.stderr
    return Ran(result, folder)
