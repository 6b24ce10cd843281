from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import pytest

from surelock.cli.verify import DEFAULT_PROMPTS
from surelock.params import LockParams, SamplingParams
from tests.cli.conftest import FakeLibrary, Run, assert_one_line_error


@dataclass(frozen=True)
class Report:
    num_prompts: int = 4
    num_tokens: int = 256
    dtype: str = "float32"
    exact: bool = True
    first_mismatch: tuple[int, int] | None = None
    lock_agreement: float = 0.9876
    first_difference: tuple[int, int] | None = (2, 17)
    identical_outputs: int = 3
    max_deviation: float = 3.2e-3
    mean_deviation: float = 1.5e-5
    active_ratio: float = 0.482

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch, library: FakeLibrary) -> list[tuple[Report, list[Any]]]:
    """The report the next call returns, and the arguments of the calls."""
    calls: list[tuple[Report, list[Any]]] = [(Report(), [])]

    def verify(*arguments: Any, progress: Callable[[int, int], None]) -> Report:
        progress(1, 1)
        report, seen = calls[0]
        seen.extend(arguments)
        return report

    module = ModuleType("surelock.measure.verify")
    module.verify = verify  # type: ignore[attr-defined]
    module.noise_floor = lambda *arguments: {"median": 0.0, "p99": 1e-9, "max": 2e-8}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "surelock.measure.verify", module)
    return calls


Reports = list[tuple[Report, list[Any]]]


def test_table(run: Run, reports: Reports, library: FakeLibrary) -> None:
    result = run("verify")
    for part in (
        "4 prompts, 256 tokens, in float32",
        "exact: every token equals the oracle's",
        "98.76% of tokens as without, 3 of 4 outputs identical",
        "prompt 3, step 17",
        "mean 1.50e-05, max 3.20e-03",
        "48.2%",
    ):
        assert part in result.stdout
    assert result.exit_code == 0
    assert reports[0][1] == [library.made[0], list(DEFAULT_PROMPTS), SamplingParams(max_tokens=64)]


def test_own_prompts_and_rule(run: Run, reports: Reports) -> None:
    assert run("verify", "one", "two", "-n", "8", "--paper").exit_code == 0
    assert reports[0][1][1:] == [["one", "two"], SamplingParams(max_tokens=8, lock=LockParams.paper())]


def test_not_exact_is_exit_code_1(run: Run, reports: Reports) -> None:
    reports[0] = (Report(exact=False, first_mismatch=(0, 12)), [])
    result = run("verify")
    assert "NOT EXACT: first at prompt 1, position 12" in result.stdout
    assert result.exit_code == 1
    result = run("verify", "--json")
    assert json.loads(result.stdout)["exact"] is False
    assert result.exit_code == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_compared_and_does_not_fail(run: Run, reports: Reports, dtype: str) -> None:
    reports[0] = (Report(exact=False, first_mismatch=(0, 12), dtype=dtype), [])
    result = run("verify")
    assert f"in {dtype}" in result.stdout
    shown = " ".join(result.stdout.split())
    assert "differs from the oracle, first at prompt 1, position 12" in shown
    assert "equality is promised in float32 only: add --dtype float32" in shown
    assert "NOT EXACT" not in shown
    assert result.exit_code == 0
    result = run("verify", "--json")
    assert json.loads(result.stdout).items() >= {"exact": False, "dtype": dtype}.items()
    assert result.exit_code == 0


def test_json_with_noise_floor(run: Run, reports: Reports) -> None:
    result = run("verify", "--json", "--noise-floor")
    row = json.loads(result.stdout)
    assert row.items() >= json.loads(json.dumps(Report().to_dict())).items()
    assert row["noise_floor"] == {"median": 0.0, "p99": 1e-9, "max": 2e-8}
    assert row["model"] == "embedded"
    assert result.stderr == ""


def test_noise_floor_in_the_table(run: Run, reports: Reports) -> None:
    assert "p99 1.00e-09" in run("verify", "--noise-floor").stdout
    assert "noise floor" not in run("verify").stdout


def test_empty_file_is_not_replaced_by_the_built_in_prompts(run: Run, reports: Reports, tmp_path: Any) -> None:
    file = tmp_path / "empty.txt"
    file.write_text("\n")
    assert_one_line_error(run("verify", "-f", str(file)), "holds no prompt")
