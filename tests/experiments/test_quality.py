"""Scoring of continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
import torch

from surelock.eval.judge import Judge
from surelock.experiments.prompts import Text
from surelock.experiments.quality import TextJudge, load_judge
from surelock.experiments.workbench import Options, Workbench

CPU: Final = torch.device("cpu")


@dataclass
class Output:
    """What is scored of an output."""

    text: str
    token_ids: list[int]


class CountingJudge:
    """One nat for each character of a text; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def negative_log_likelihood(self, prefix_texts: Sequence[str], texts: Sequence[str]) -> list[tuple[float, int]]:
        self.asked += zip(prefix_texts, texts, strict=True)
        return [(float(len(text)), 1) for text in texts]


def _run(*texts: str) -> list[Output]:
    return [Output(text, [1, 2, 3, 4]) for text in texts]


def test_each_text_is_scored_once_whatever_run_holds_it() -> None:
    judge = CountingJudge()
    scored = TextJudge(cast(Judge, judge), [Text("p", ()), Text("q", ())], seed=0)
    scored.score_all([_run("a", "a"), _run("a", "bb")])
    assert judge.asked == [("p", "a"), ("q", "a"), ("q", "bb")]
    row: dict[str, Any] = scored.row(_run("ccc", "bb"), _run("a", "a"))
    assert judge.asked[3:] == [("p", "ccc")]
    assert row["ppl_ratio"] == pytest.approx(2.718281828 ** (5 / 2 - 1))


def test_a_changed_run_is_scored_anew() -> None:
    scored = TextJudge(cast(Judge, CountingJudge()), [Text("p", ())], seed=0)
    outputs = _run("a")
    before = scored.row(outputs, outputs)["gen_ppl"]
    outputs[0] = _run("aaaa")[0]
    assert scored.row(outputs, outputs)["gen_ppl"] == pytest.approx(before**4)


@pytest.mark.parametrize(("offline", "told"), [(True, True), (False, None)])
def test_offline_reaches_the_judge(offline: bool, told: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(Judge, "load", lambda model, **options: given.update(model=model, **options))
    bench = SimpleNamespace(options=Options(judge="some/judge", offline=offline), llm=SimpleNamespace(device=CPU))
    load_judge(cast(Workbench, bench))
    assert given == {"model": "some/judge", "device": CPU, "dtype": None, "offline": told}
