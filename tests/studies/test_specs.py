"""Every study once, with tiny settings on a tiny random model: cells, tables, pictures and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from studies.__main__ import everything
from studies.bench import Bench, Length, Options, lengths
from studies.paper import quality, selection
from studies.progress import Journal
from studies.results import read_tables, write_result
from studies.study import Row, Rows, Settings, Study, run_study, where
from surelock import LLM
from tests.studies.conftest import LIMIT, FakeJudge

SHORT = lengths(8)
TASKS = {"tasks": ("unit",), "num_problems": 2}
# In place of the quick settings, where those take more than a moment.
TINY: dict[str, dict[str, Any]] = {
    "flops_table": {"num_prompts": 2, "lengths": lengths(8, 1024), "thresholds": (5e-3,)},
    "flops_curves": {"num_prompts": 2, "lengths": lengths(8, 1024), "thresholds": (5e-3,)},
    "quality": {"num_prompts": 2, "lengths": lengths(8, (8, 4), 1024), "tasks": ("unit",)},
    "throughput": {"lengths": lengths(8, 1024), "batch_sizes": (2, 1)},
    "selection": {"num_prompts": 2, "lengths": lengths(8, (8, 1))},
    "thresholds": {"num_prompts": 2, "lengths": SHORT, "thresholds": (5e-8, 0.5)},
    "adaptive": {"num_problems": 2, "tasks": ("shop",)},
    "kv_drift": {"num_problems": 1, "tasks": ("unit",), "tokens_per_step": 32, "thresholds": (5e-4, 0.5)},
    "refresh": {"num_problems": 1, "tasks": ("unit",), "tokens_per_step": 16},
    "temperature": {"lengths": SHORT, "tasks": ("unit",), "unmasking": ("random",)},
    "oscillation": {"num_prompts": 2, "lengths": SHORT, "group_every": 4},
    "noise_floor": {"lengths": SHORT},
    "short_outputs": {"lengths": lengths(8, (8, 4))},
    "long_canvases": {"lengths": lengths(8, 16, (16, 8))},
    "theorem": {"num_prompts": 2, "lengths": SHORT},
    "forced": {"num_prompts": 2, "lengths": SHORT, "group_every": 4, "rules": ("literal@1e3",), "max_locks": 4},
}
# What random weights do not have to show.
MAY_BE_EMPTY = {"forced_flips", "adaptive", "adaptive_places", "kv_drift", "kv_drift_places", "kv_drift_cost"}
each_study = pytest.mark.parametrize("study", everything(), ids=[study.name for study in everything()])


@pytest.fixture(scope="module")
def bench(tiny: LLM, judge: FakeJudge) -> Bench:
    return Bench(tiny, Options(quick=True))


def rows_of(study: Study, bench: Bench, **changes: Any) -> Rows:
    return run_study(study, bench, Journal(None), changes=TINY[study.name] | changes).rows


@each_study
def test_every_study_measures_and_writes(study: Study, bench: Bench, tmp_path: Path) -> None:
    own = bench if study.needs_model else Bench(None, Options(quick=True))
    result = run_study(study, own, Journal(None), changes=TINY[study.name])
    for table in study.tables:
        assert result.rows[table.name] or table.name in MAY_BE_EMPTY, table.name
        for row in result.rows[table.name]:
            assert set(table.columns.split() if table.columns else ()) <= row.keys(), table.name
    paths = {path.name for path in write_result(tmp_path, result, "the command")}
    written = json.loads((tmp_path / f"{study.name}.json").read_text())
    assert {f"{picture['name']}.png" for picture in written["pictures"]} <= paths
    assert len(written["pictures"]) == len(study.plots)
    assert all((tmp_path / f"{plot.name}.png").read_bytes().startswith(b"\x89PNG") for plot in study.plots)
    page = (tmp_path / f"{study.name}.md").read_text()
    assert page.startswith(f"# {study.title}\n")
    assert "{" not in result.method
    assert all(f"- {line}\n" in page for line in result.left_out)
    if Length(1024, 1024) in TINY[study.name].get("lengths", ()):
        assert any(f"the model's limit is {LIMIT}" in line for line in result.left_out)
    first = study.tables[0].name
    assert read_tables(tmp_path / f"{study.name}.json").get(first, []) == json.loads(json.dumps(result.rows[first]))


def test_no_cell_of_a_study_shares_its_name(bench: Bench) -> None:
    for study in everything():
        quick = study.quick if study.needs_model else {}
        cells = study.grid(bench, Settings(**{**study.settings, **quick}))
        assert len({cell.name for cell in cells}) == len(cells) > 0, study.name


def test_locks_save_and_padding_never_locks(bench: Bench) -> None:
    study = next(study for study in everything() if study.name == "flops_table")
    for row in rows_of(study, bench, thresholds=(5e-3, 1e9))["flops_table"]:
        assert row["masked_floor"] <= row["exact_ratio"] <= 1
        assert row["paper_ratio"] >= row["exact_ratio"] - 1e-9
    assert {row["equal"] for row in rows_of(study, bench)["self_check"]} == {"yes"}


def test_curves_begin_at_one_and_never_rise(bench: Bench) -> None:
    rows = rows_of(next(study for study in everything() if study.name == "flops_curves"), bench)
    for row in rows["flops_curves"]:
        keys = {name: row[name] for name in ("num_generated", "threshold", "rule", "percentile")}
        curve = [step["active_ratio"] for step in where(rows["flops_curves_by_step"], **keys)]
        assert curve[0] == 1
        assert curve == sorted(curve, reverse=True)
        assert sum(curve) / len(curve) == pytest.approx(row["active_ratio"])


def test_no_lock_is_compared_with_itself(bench: Bench) -> None:
    rows = rows_of(quality.QUALITY, bench)
    for row in where(rows["quality"], rule="no lock"):
        assert row["agreement"] == row["exact_ratio"] == row["ppl_ratio"] == 1
    for row in rows["quality"]:
        assert row["ppl_ratio_low"] <= row["ppl_ratio"] <= row["ppl_ratio_high"]
    assert [row["difference"] is None for row in rows["tasks"]] == [True, False, False]


def test_a_share_of_the_rows_saves_on_top_of_locks(bench: Bench) -> None:
    rows = rows_of(selection.STUDY, bench, lengths=lengths(16))["selection"]
    of = {(row["rule"], row["share"]): row for row in rows}
    assert 0.8 <= of["no lock", 0.8]["exact_ratio"] < 0.9
    for rule in ("permanent rule", "paper rule"):
        assert of[rule, 0.8]["exact_ratio"] < of["no lock", 0.8]["exact_ratio"]
        assert of[rule, 0.8]["expected_ratio"] == pytest.approx(0.8 * of[rule, None]["exact_ratio"])


def test_published_numbers_stand_beside_the_papers_settings(bench: Bench) -> None:
    def printed(study: Study, **changes: Any) -> dict[tuple[object, ...], Row]:
        rows = run_study(study, bench, Journal(None), changes=changes).rows[study.name]
        return {(row["rule"], row["threshold"]): row for row in rows}

    found = printed(quality.THRESHOLDS, num_prompts=1, thresholds=(5e-8, 1e-3))
    assert found["paper rule", 5e-8]["published_ppl_ratio"] == 1.14
    assert {found[key]["published_ppl_ratio"] for key in found if key != ("paper rule", 5e-8)} == {None}
    found = printed(quality.QUALITY, num_prompts=1, lengths=lengths((128, 64)), thresholds=(5e-3,), canvases=())
    assert found["paper rule", 5e-3]["published_flops_ratio"] == 0.57
    assert found["permanent rule", 5e-3]["published_flops_ratio"] is None


def test_counted_canvases_are_the_committed_ones() -> None:
    study = next(study for study in everything() if study.name == "long_canvases")
    root = Path(__file__).parents[2] / "benchmarks" / "results" / "cost" / "finding_long_canvases"
    committed = read_tables(root / "long_canvases.json")["long_canvases"]
    found = run_study(study, Bench(None), Journal(None)).rows["long_canvases"]
    assert len(found) == len(committed) == 10
    for own, row in zip(found, committed, strict=True):
        # As the permanent rule was called when this was counted.
        assert own == row | {"rule": row["rule"].replace("default", "permanent")}
