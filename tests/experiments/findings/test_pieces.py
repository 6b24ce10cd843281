"""What several findings are made of, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from surelock import LLM, LockParams, SamplingParams
from surelock.engine.noise_floor import null_pair, null_part
from surelock.eval.metrics import agreement
from surelock.experiments.delayed_cache import decode_cached
from surelock.experiments.fitted_tasks import RIGHT_COLUMNS, TRAINED, compared, fitted_problems
from surelock.experiments.mixture import Run, active_ratio, decode_together
from surelock.experiments.pareto import front
from surelock.experiments.prompts import Prompts
from surelock.experiments.workbench import Workbench


@pytest.fixture
def bench(tiny: LLM) -> Workbench:
    return Workbench(tiny, Prompts(tiny))


def test_decoded_together_as_alone(bench: Workbench) -> None:
    prompts = [(5, 6, 7), (8, 9)]
    short = SamplingParams(max_tokens=4, ignore_eos=True, lock=None)
    long = SamplingParams(max_tokens=8, steps=4, temperature=0.5, seed=3, ignore_eos=True, lock=LockParams.paper(0.1))
    runs = {"short": Run(prompts, [short, short]), "mixed": Run(prompts, [short, long])}
    found = decode_together(bench, runs)
    assert list(found) == ["short", "mixed"]
    for name, run in runs.items():
        for prompt, params, output in zip(run.prompts, run.params, found[name], strict=True):
            alone = bench.llm.generate({"prompt_token_ids": list(prompt)}, params)[0]
            assert output.token_ids == alone.token_ids
            assert output.stats.active_rows == alone.stats.active_rows
    assert active_ratio(found["short"]) == 1
    rows = sum(sum(output.stats.active_rows) for output in found["mixed"])
    assert active_ratio(found["mixed"]) == rows / (4 * 7 + 4 * 10)


def test_the_delayed_cache_counts_its_rows(tiny: LLM) -> None:
    params = SamplingParams(max_tokens=6, ignore_eos=True, lock=None)
    prompts = [(5, 6, 7, 8), (8, 9), (9, 9, 5, 6)]
    cached, free = decode_cached(tiny, Run(prompts, [params] * 3), period=3)
    # Of 4 + 6 positions: all; the masks and the newest token; all (refreshed); 3 masks and 1; 2 and 1; all.
    assert [each.num_active for each in cached] == [10 + 6 + 10 + 4 + 3 + 10, 8 + 6 + 8 + 4 + 3 + 8, 43]
    assert [each.num_rows for each in cached] == [each.num_active for each in free] == [60, 48, 60]
    plain = tiny.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], params)
    assert [each.token_ids for each in free] == [output.token_ids for output in plain]
    assert [each.text for each in free] == [output.text for output in plain]


def test_a_cache_refreshed_in_every_step_changes_nothing(tiny: LLM) -> None:
    run = Run([(5, 6, 7)], [SamplingParams(max_tokens=5, lock=None)])
    (cached,), (free,) = decode_cached(tiny, run, period=1)
    assert agreement(cached.token_ids, free.token_ids) == 1
    assert cached.num_active == free.num_active


def test_fitted_problems(bench: Workbench) -> None:
    problems, lines = fitted_problems(bench, ("unit", "shop"), num_per_task=2)
    assert [each.problem.task for each in problems] == ["unit", "unit", "shop", "shop"]
    assert lines == []
    tokenizer = bench.llm.tokenizer
    assert tokenizer is not None
    for each in problems:
        num = len(tokenizer.encode(each.problem.answer, bos=False)) + 1
        assert each.max_tokens % 32 == 0
        assert num <= each.max_tokens < num + 32
        assert each.is_right(each.problem.answer)
        assert not each.is_right("")


def test_problems_longer_than_the_model_are_left_out(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    problems, _ = fitted_problems(bench, TRAINED, num_per_task=1)
    longest = max(len(each.prompt) + each.max_tokens for each in problems)
    limited = replace(bench.llm.config, max_sequence_length=longest - 1)
    monkeypatch.setattr(bench.llm, "config", limited)
    fewer, (line,) = fitted_problems(bench, TRAINED, num_per_task=1)
    assert len(fewer) < len(problems)
    assert f"are longer than the model's {longest - 1} positions" in line


def test_compared_by_hand() -> None:
    free = [True] * 6 + [False] * 2
    own = [True] * 4 + [False] * 3 + [True]
    row = compared(own, free, seed=0)
    assert list(row) == [column.name for column in RIGHT_COLUMNS]
    assert (row["num_problems"], row["accuracy"], row["difference"]) == (8, 5 / 8, -1 / 8)
    assert (row["num_lost"], row["num_won"], row["mcnemar_p"]) == (2, 1, 1)
    alone = compared(free, None, seed=0)
    assert list(alone) == list(row)
    assert alone["accuracy"] == 6 / 8
    assert alone["difference"] is None


def test_front() -> None:
    assert front([]) == []
    points = [(0.5, 3.0), (0.3, 1.0), (0.4, 1.0), (0.3, 0.5), (0.6, 3.0), (0.5, 3.0), (0.7, 4.0)]
    assert front(points) == [1, 0, 6]


def test_null_pairs_measure_rounding_alone(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    model, canvas = tiny.transformer, [5, 6, 7, 8, tiny.config.mask_token_id, 9]
    together, part = null_pair(model, canvas, 4), null_part(model, canvas, [1, 4])
    more = null_part(model, canvas, [1, 4], [0, 3])
    assert together.kl.shape == (6,)
    assert part.kl.shape == (2,)
    assert more.kl.shape == (2,)
    assert max(float(found.kl.max()) for found in (together, part, more)) < 1e-8
    torch.testing.assert_close(part.uncertainty, together.uncertainty[[1, 4]])
    compute = type(model).hidden

    def shape_dependent(self: object, batch: object, kv: object) -> torch.Tensor:
        hidden = compute(self, batch, kv)  # type: ignore[arg-type]
        return hidden * (1 + len(hidden) / 2**7)

    monkeypatch.setattr(type(model), "hidden", shape_dependent)
    assert float(null_part(model, canvas, [1, 4]).kl.max()) > float(null_part(model, canvas, [1, 4], [0]).kl.max()) > 0
