"""Continuations and gaps with locks and without: the numbers are those of the outputs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from surelock import LLM, LockParams, SamplingParams
from surelock.errors import ParameterError, PromptError, TokenizerError
from surelock.measure.judge import Judge
from surelock.measure.metrics import distinct_n, perplexity
from surelock.measure.rules import parse_rules
from surelock.measure.statistics import paired_difference, perplexity_ratio
from surelock.measure.text import InfillProblem, TextPrompt, load_infill, load_text
from surelock.measure.text.continuation import REAL_TEXT, TextSetting, measure_continuations
from surelock.measure.text.fill import measure_infilling
from tests.checkpoints import write_checkpoint

RECKLESS = {"none": None, "always": LockParams(kl_threshold=1e6)}
SETTING = TextSetting(max_tokens=8, steps=4)


@pytest.fixture(scope="module")
def prompts(embedded: LLM) -> list[TextPrompt]:
    return load_text(tokenizer=embedded.tokenizer, num_prompts=3, num_prompt_tokens=16)


def test_a_row_holds_what_the_outputs_say(embedded: LLM, judge: Judge, prompts: list[TextPrompt]) -> None:
    seen: list[str] = []
    rows, samples = measure_continuations(embedded, judge, prompts, [SETTING], RECKLESS, progress=seen.append)
    none, always, real = rows
    assert [row["rule"] for row in rows] == ["none", "always", REAL_TEXT]
    assert [row.keys() for row in rows] == [none.keys()] * 3
    assert seen == ["8 tokens in 4 steps, none", "8 tokens in 4 steps, always", "8 tokens, real text"]
    assert (none["ppl_ratio"], none["ppl_ratio_low"], none["ppl_ratio_high"]) == (1, 1, 1)
    assert (none["agreement"], none["identical"], none["active_ratio"], none["flops_ratio"]) == (1, 3, 1, 1)

    outputs = [
        embedded.generate(
            {"prompt_token_ids": list(prompt.token_ids)},
            replace(SamplingParams(max_tokens=8, steps=4, ignore_eos=True, lock=RECKLESS["always"]), seed=index),
        )[0]
        for index, prompt in enumerate(prompts)
    ]
    assert [sample["text"] for sample in samples if sample["rule"] == "always"] == [output.text for output in outputs]
    scores = judge.negative_log_likelihood([prompt.prompt for prompt in prompts], [output.text for output in outputs])
    assert always["gen_ppl"] == pytest.approx(perplexity(scores))
    assert always["ppl_ratio"] == pytest.approx(always["gen_ppl"] / none["gen_ppl"])
    own, free = ([sample["distinct_3"] for sample in samples if sample["rule"] == rule] for rule in ("always", "none"))
    assert own == [distinct_n(output.token_ids, 3) for output in outputs]
    expected = paired_difference(own, free, seed=0)
    assert always["distinct_3_difference"] == pytest.approx(always["distinct_3"] - none["distinct_3"])
    assert (always["distinct_3_low"], always["distinct_3_high"]) == (expected.low, expected.high)
    assert none["distinct_3_low"] == none["distinct_3_high"] == 0
    assert always["active_ratio"] == fmean(output.stats.active_ratio for output in outputs)
    assert always["active_ratio"] < 1
    assert always["judge_tokens"] == sum(count for _, count in scores)
    # 8, 6, 4 and 2 masks of 24 positions.
    assert always["masked_floor"] == pytest.approx(20 / (4 * 24))
    assert real["num_prompts"] == 3
    assert real["active_ratio"] is None


def test_every_canvas_is_fitted(embedded: LLM, judge: Judge, prompts: list[TextPrompt]) -> None:
    _, samples = measure_continuations(embedded, judge, prompts[:1], [replace(SETTING, steps=8)], parse_rules([]))
    assert embedded.tokenizer is not None
    assert len(samples) == 1
    assert SETTING.params(None).ignore_eos


def test_a_chat_turn_is_wrapped(embedded: LLM, judge: Judge) -> None:
    prompt = TextPrompt(prompt="What is 2 + 3?", continuation="", source="own", licence="")
    rows, samples = measure_continuations(embedded, judge, [prompt], [SETTING], parse_rules([]), chat=True)
    (output,) = [embedded.chat([{"role": "user", "content": prompt.prompt}], replace(SETTING.params(None), seed=0))]
    assert samples[0]["text"] == output.text
    # The file did not say what really follows.
    assert [row["rule"] for row in rows] == ["none"]


def test_what_cannot_be_measured_is_refused_before_anything_runs(
    embedded: LLM, judge: Judge, prompts: list[TextPrompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(embedded, "generate", fail)
    with pytest.raises(PromptError, match="no prompt to continue"):
        measure_continuations(embedded, judge, [], [SETTING], RECKLESS)
    with pytest.raises(ParameterError, match="the first rule must be none"):
        measure_continuations(embedded, judge, prompts, [SETTING], {"always": RECKLESS["always"]})
    with pytest.raises(PromptError, match="512"):
        measure_continuations(embedded, judge, prompts, [SETTING, TextSetting(max_tokens=500, steps=5)], RECKLESS)
    with pytest.raises(PromptError, match="no gap to fill"):
        measure_infilling(embedded, judge, [], RECKLESS)
    with pytest.raises(ParameterError, match="the first rule must be none"):
        measure_infilling(embedded, judge, load_infill(num_problems=1), {})
    silent = LLM(write_checkpoint(tmp_path), device="cpu")
    with pytest.raises(TokenizerError, match="no judge can read"):
        measure_continuations(silent, judge, prompts, [SETTING], RECKLESS)
    with pytest.raises(TokenizerError, match="no text to fill gaps in"):
        measure_infilling(silent, judge, load_infill(num_problems=1), RECKLESS)


def test_gaps_are_filled_and_counted(embedded: LLM, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [
        InfillProblem(before=before, answer=answer, after=".", source="own", licence="")
        for before, answer in [("The cat", " sat on the mat"), ("It", " was the best of times"), ("A", " b c d")]
    ]
    assert embedded.tokenizer is not None
    right = problems[1].canvas(embedded.tokenizer)[1]
    generate = embedded.generate

    def with_one_right(*arguments: object) -> object:
        outputs = generate(*arguments)  # type: ignore[arg-type]
        return [outputs[0], replace(outputs[1], token_ids=right), outputs[2]]

    monkeypatch.setattr(embedded, "generate", with_one_right)
    rows, samples = measure_infilling(embedded, judge, problems, RECKLESS)
    none, always, real = rows
    assert none["exact"] == always["exact"] == 1 / 3
    assert (always["difference"], always["mcnemar_p"]) == (0, 1)
    assert none["token_match"] >= 1 / 3
    assert none["agreement"] == 1
    assert always["flops_ratio"] < 1
    assert real["rule"] == REAL_TEXT
    scores = judge.negative_log_likelihood([p.before for p in problems], [p.answer + p.after for p in problems])
    assert real["gap_ppl"] == pytest.approx(perplexity(scores))
    assert [sample["exact"] for sample in samples] == [False, True, False] * 2
    assert samples[1]["text"] == problems[1].answer


def test_the_interval_of_a_perplexity_ratio() -> None:
    baseline = [(10.0 + index % 3, 10) for index in range(30)]
    scaled = [(nats + 10 * math.log(1.5), count) for nats, count in baseline]
    exact = perplexity_ratio(scaled, baseline, seed=0)
    assert (exact.value, exact.low, exact.high) == pytest.approx((1.5, 1.5, 1.5))
    noisy = perplexity_ratio(
        [(nats + index % 2, count) for index, (nats, count) in enumerate(baseline)], baseline, seed=0
    )
    assert noisy.low < noisy.value < noisy.high
    assert noisy.value == pytest.approx(math.exp(0.05))
    assert perplexity_ratio(scaled, baseline, seed=0) == exact
    with pytest.raises(ParameterError, match="1 scores for 2 of the baseline"):
        perplexity_ratio([(1.0, 1)], [(1.0, 1)] * 2, seed=0)
