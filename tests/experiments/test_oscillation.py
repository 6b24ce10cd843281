"""The finding's tables, picture and sentences, on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import pytest

from surelock import LLM, LockParams
from surelock.errors import ParameterError
from surelock.eval.twin.records import RuleRecord
from surelock.experiments.findings import oscillation
from surelock.experiments.lengths import Length
from surelock.experiments.prompts import Prompts
from surelock.experiments.registry import chosen, experiments, open_questions
from surelock.experiments.workbench import Options, Workbench
from surelock.experiments.write import write_result
from tests.checkpoints import write_checkpoint
from tests.tokenizer_folders import save


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder, vocab_size=259, embedding_size=259, mask_token_id=1, eos_token_id=0, pad_token_id=0)
    llm = LLM(save(folder), device="cpu")
    for layer in llm.transformer.layers:
        # So that rows listen to each other and some change their mind.
        layer.attn_out.weight *= 6  # type: ignore[operator, union-attr]
    prompts = folder / "prompts.jsonl"
    prompts.write_text('{"prompt": "one two three"}\n{"prompt": "red green bl"}\n')
    options = Options(quick=True, num_prompts=2, lengths=(Length(12, 12),))
    return Workbench(llm, Prompts(llm, prompts), options)


def test_result(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A random model's posteriors never settle.
    monkeypatch.setattr(oscillation, "RULES", {"default": LockParams(kl_threshold=1e6)})
    recorded: list[dict[str, RuleRecord]] = []
    told = oscillation._harm_findings

    def findings(records: dict[str, RuleRecord]) -> list[str]:
        recorded.append(records)
        return told(records)

    monkeypatch.setattr(oscillation, "_harm_findings", findings)
    result = oscillation.run(bench)
    (records,) = recorded
    # Of both sequences, though each is a batch of its own.
    assert all({0, 1} >= total.per_lock.numbers.keys() for total in records["default"].groups.values())
    assert set().union(*(total.per_lock.numbers for total in records["default"].groups.values())) == {0, 1}
    states = {row["state"]: row for row in result.tables[0].rows}
    assert {state: row["rows"] for state, row in states.items()} == {
        "masked": 2 * 66,
        "generated": 2 * 55,
        "prompt": 11 * (13 + 12),
    }
    bins = result.tables[1].rows
    for state, row in states.items():
        assert sum(one["flips"] for one in bins if one["state"] == state) == row["flips"]
        assert row["stable_flips"] <= row["flips"]
        assert row["positions_that_alternate"] <= row["positions_that_change"]
    assert states["masked"]["flips"] > 0
    harm = result.tables[2].rows
    by_class = {(row["source"], row["class"]): row["locks"] for row in harm}
    for source in ("generated", "prompt"):
        later = sum(by_class.get((source, name), 0) for name in ("steady", "changes once", "alternates"))
        tied = by_class.get((source, "near tie when locked"), 0) + by_class.get((source, "no tie when locked"), 0)
        assert later == tied > 0
    assert any(sentence.startswith("Masked rows: ") for sentence in result.findings)
    paths = write_result(tmp_path, result, "surelock experiment oscillation")
    assert {"oscillation.md", "oscillation.png", "oscillation_kl.csv"} <= {path.name for path in paths}


def test_findings_are_asked_for_by_name() -> None:
    assert [each.name for each in chosen("oscillation")] == ["oscillation"]
    assert chosen("finding") == open_questions()
    assert chosen("all") == experiments()
    with pytest.raises(ParameterError, match=r"6, .*oscillation.*, finding or all"):
        chosen("7")
