"""`verify` finds nothing where nothing is wrong, and something where something is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from surelock import LLM, LockParams, SamplingParams
from surelock.engine.runner import Runner
from surelock.errors import NonFiniteLogitsError, ParameterError, PromptError
from surelock.measure.verify import verify
from tests.checkpoints import write_checkpoint

TEXTS = ["Call me Ishmael. Some years ago", "The President said"]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM()


def test_no_locking_is_exact_and_deviates_by_rounding(llm: LLM) -> None:
    seen: list[tuple[int, int]] = []
    params = SamplingParams(max_tokens=6, lock=None, cfg_scale=0.5)
    report = verify(llm, TEXTS, params, progress=lambda *at: seen.append(at))
    assert report.exact
    assert report.dtype == "float32"
    assert report.first_mismatch is None
    assert report.num_tokens == 12
    assert report.lock_agreement == 1
    assert report.identical_outputs == 2
    assert report.first_difference is None
    assert report.max_deviation < 1e-5
    assert report.active_ratio == 1
    assert seen == [(1, 2), (2, 2)]


def test_reckless_locking_is_measured(llm: LLM) -> None:
    lock = LockParams(kl_threshold=1e6, min_visible_steps=0)
    report = verify(llm, TEXTS, SamplingParams(max_tokens=10, lock=lock))
    assert report.exact
    assert report.active_ratio < 0.6
    assert report.lock_agreement < 1
    assert report.first_difference is not None
    assert report.max_deviation > 0.01


def test_a_broken_engine_is_found(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Runner.__call__

    def off_by_a_little(self: Runner, canvas: object, rows: object) -> object:
        return run(self, canvas, rows) + 0.5  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "__call__", off_by_a_little)
    report = verify(llm, TEXTS[0], SamplingParams(max_tokens=10, lock=None))
    assert not report.exact
    assert report.first_mismatch is not None
    assert report.first_mismatch[0] == 0


@pytest.mark.parametrize("poisoned", [2, 7])
def test_a_model_that_is_not_finite_is_an_error(tmp_path: Path, poisoned: int) -> None:
    llm = LLM(write_checkpoint(tmp_path), device="cpu")
    llm.transformer.embedding.weight[poisoned] = torch.nan
    prompts = [{"prompt_token_ids": [1, 3]}, {"prompt_token_ids": [4, poisoned]}]
    with pytest.raises(NonFiniteLogitsError, match="NaN or infinite for prompt 1: check the weights"):
        verify(llm, prompts, SamplingParams(max_tokens=3))


def test_a_run_that_fails_only_with_locks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(write_checkpoint(tmp_path), device="cpu")
    run = Runner.__call__

    def break_where_rows_are_missing(self: Runner, canvas: Any, rows: Any) -> torch.Tensor:
        hidden = run(self, canvas, rows)
        return hidden if int(rows.sum()) == 8 else hidden * torch.nan

    monkeypatch.setattr(Runner, "__call__", break_where_rows_are_missing)
    lock = LockParams(kl_threshold=1e6, min_visible_steps=0)
    with pytest.raises(NonFiniteLogitsError, match="for prompt 0"):
        verify(llm, {"prompt_token_ids": [1, 3]}, SamplingParams(max_tokens=6, lock=lock))


def test_nothing_committed_deviates_by_nothing(tmp_path: Path) -> None:
    llm = LLM(write_checkpoint(tmp_path), device="cpu")
    head, mask = llm.transformer.lm_head.weight, llm.config.mask_token_id
    ids = [1, 3, mask, mask]
    # The row of the head that gives [MASK] a logit of 1000 at every position of this canvas.
    hidden = torch.linalg.lstsq(head, llm.logits(ids).T).solution.T
    head[mask] = torch.linalg.pinv(hidden) @ torch.full((len(ids),), 1e3)
    prompt, params = {"prompt_token_ids": [1, 3]}, SamplingParams(max_tokens=2, allow_mask=True, lock=None)
    assert llm.generate(prompt, params)[0].canvas_token_ids == ids
    report = verify(llm, prompt, params)
    assert report.num_tokens == 2
    assert (report.max_deviation, report.mean_deviation) == (0, 0)
    assert report.exact


def test_everything_is_checked_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(write_checkpoint(tmp_path), dtype="bfloat16", device="cpu")

    def fail(*_: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(llm.transformer, "hidden", fail)
    monkeypatch.setattr("surelock.measure.verify.oracle_decode", fail)
    good, bad = {"prompt_token_ids": [1]}, {"prompt_token_ids": [10**6]}
    with pytest.raises(PromptError, match="1000000"):
        verify(llm, [good, bad], SamplingParams(max_tokens=2))
    with pytest.raises(ParameterError, match=r"lock\.kl_threshold is 1e-09"):
        verify(llm, good, SamplingParams(max_tokens=2, lock=LockParams(kl_threshold=1e-9)))
    wrong: Any = {"max_tokens": 2}
    with pytest.raises(ParameterError, match=r"params is {'max_tokens': 2}; pass a SamplingParams"):
        verify(llm, good, wrong)


def test_the_report_names_the_dtype(tmp_path: Path) -> None:
    llm = LLM(write_checkpoint(tmp_path), dtype="bfloat16", device="cpu")
    assert verify(llm, {"prompt_token_ids": [1]}, SamplingParams(max_tokens=2)).to_dict()["dtype"] == "bfloat16"
