"""The public door, on the embedded model and on small broken ones."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import surelock
from surelock import LLM, LockParams, SamplingParams
from surelock.decoding.naive import naive_decode
from surelock.errors import NonFiniteLogitsError, ParameterError, PromptError, TokenizerError
from tests.checkpoints import write_checkpoint

TEXTS = ["Call me Ishmael. Some years ago", "The President said"]
SHORT = SamplingParams(max_tokens=12, seed=3)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM()


@pytest.fixture
def no_tokenizer(tmp_path: Path) -> LLM:
    return LLM(write_checkpoint(tmp_path))


def test_public_names() -> None:
    assert dir(surelock) == sorted(surelock.__all__)
    for name in surelock.__all__:
        assert getattr(surelock, name).__module__.startswith("surelock.")
    with pytest.raises(AttributeError, match="it has LLM, LockParams"):
        _ = surelock.Llm


def test_the_embedded_model_loads_in_three_seconds(llm: LLM) -> None:
    # The best of three: the machine that runs the tests may be busy with others.
    times = []
    for _ in range(3):
        start = time.perf_counter()
        LLM()
        times.append(time.perf_counter() - start)
    assert min(times) < 3
    assert llm.dtype == torch.float32
    assert llm.device.type == "cpu" or torch.cuda.is_available()


def test_outputs_and_their_statistics_fit_together(llm: LLM) -> None:
    for text, output in zip(TEXTS, llm.generate(TEXTS, SHORT), strict=True):
        assert llm.tokenizer is not None
        prompt = llm.tokenizer.encode(text)
        assert output.canvas_token_ids[: len(prompt)] == prompt
        assert output.canvas_token_ids[len(prompt) :][: len(output.token_ids)] == output.token_ids
        assert output.text == llm.tokenizer.decode(output.token_ids)
        assert output.prompt_tokens == len(prompt)
        assert output.generation_tokens == len(output.token_ids)
        stats, num_positions = output.stats, len(output.canvas_token_ids)
        assert stats.steps == len(stats.active_rows) == 12
        assert stats.active_ratio == sum(stats.active_rows) / (12 * num_positions) < 1
        assert stats.flops["exact"]["ratio"] == pytest.approx(stats.active_ratio)
        assert len(stats.locked_at) == num_positions
        # What is active in a step is what no earlier step locked; the last step tests nothing.
        for step, rows in enumerate(stats.active_rows, start=1):
            assert rows == sum(at is None or at >= step for at in stats.locked_at)
        assert max(at or 0 for at in stats.locked_at) < 12
        assert stats.seed is None


def test_text_equals_the_oracle_on_the_embedded_model(llm: LLM) -> None:
    assert llm.tokenizer is not None
    params = replace(SHORT, lock=LockParams(kl_threshold=5e-3), block_length=6)
    output = llm.generate(TEXTS[0], params)[0]
    ids = llm.tokenizer.encode(TEXTS[0])
    oracle = naive_decode(llm.transformer, ids, params, mask_token_id=llm.config.mask_token_id)
    assert output.canvas_token_ids == oracle.tokens
    assert output.stats.locked_at == oracle.locked_at


def test_one_params_for_each_prompt(llm: LLM) -> None:
    outputs = llm.generate(TEXTS, [SHORT, replace(SHORT, max_tokens=5)])
    assert [output.stats.steps for output in outputs] == [12, 5]
    with pytest.raises(ParameterError, match="params has 1 entries for 2 prompts"):
        llm.generate(TEXTS, [SHORT])


def test_a_drawn_seed_is_reported_and_repeats_the_text(llm: LLM) -> None:
    params = SamplingParams(max_tokens=8, temperature=1.0)
    first = llm.generate(TEXTS[0], params)[0]
    assert first.stats.seed is not None
    again = llm.generate(TEXTS, replace(params, seed=first.stats.seed))[0]
    assert again.token_ids == first.token_ids


def test_stream_ends_with_the_output_of_generate(llm: LLM) -> None:
    updates = list(llm.stream(TEXTS, SHORT))
    outputs = llm.generate(TEXTS, SHORT)
    for index, output in enumerate(outputs):
        own = [update for update in updates if update.index == index]
        assert [update.step for update in own] == list(range(1, 13))
        assert own[-1].output == output
        assert own[-1].canvas_token_ids == output.canvas_token_ids
        assert [update.active_rows for update in own] == output.stats.active_rows
        assert sorted(p for update in own for p in update.committed) == [
            p for p, token in enumerate(own[0].canvas_token_ids) if p >= output.prompt_tokens
        ]
        exact = output.stats.flops["exact"]
        assert own[-1].flops == (exact["locked"], exact["base"])


def test_chat_is_the_template_and_ends_at_its_turn_end(llm: LLM) -> None:
    messages = [{"role": "user", "content": "What is the name of the city in: Tom lives in Oslo."}]
    output = llm.chat(messages, SamplingParams(max_tokens=24))
    assert llm.tokenizer is not None
    ids = llm.encode_chat(messages)
    assert output.canvas_token_ids[: len(ids)] == ids
    assert not set(output.token_ids) & llm.tokenizer.end_ids
    if output.finish_reason == "stop":
        assert output.canvas_token_ids[len(ids) + len(output.token_ids)] in llm.tokenizer.end_ids


def test_stop_strings_cut_text_and_tokens(llm: LLM) -> None:
    whole = llm.generate(TEXTS[0], SamplingParams(max_tokens=24, ignore_eos=True))[0]
    stop = whole.text[5:8]
    cut = llm.generate(TEXTS[0], SamplingParams(max_tokens=24, ignore_eos=True, stop=("never there", stop)))[0]
    assert cut.text == whole.text[: whole.text.find(stop)]
    assert cut.finish_reason == "stop"
    assert whole.token_ids[: len(cut.token_ids)] == cut.token_ids
    assert llm.tokenizer is not None
    assert cut.text.startswith(llm.tokenizer.decode(cut.token_ids))


def test_end_ids_cut_unless_ignored(no_tokenizer: LLM) -> None:
    prompt = {"prompt_token_ids": [3, 4, 5]}
    kept = no_tokenizer.generate(prompt, SamplingParams(max_tokens=20, ignore_eos=True))[0]
    assert len(kept.token_ids) == 20
    assert kept.finish_reason == "length"
    # Declare a token it generates the end id.
    end = kept.token_ids[7]
    no_tokenizer.config = replace(no_tokenizer.config, eos_token_ids=(end,))
    cut = no_tokenizer.generate(prompt, SamplingParams(max_tokens=20))[0]
    assert cut.token_ids == kept.token_ids[: kept.token_ids.index(end)]
    assert cut.finish_reason == "stop"
    assert cut.canvas_token_ids == kept.canvas_token_ids


def test_infill_keeps_what_was_given(llm: LLM) -> None:
    output = llm.infill(["The sea was ", 4, " and the sky was ", 3, "."])
    first, second = (gap.text for gap in output.gaps)
    assert output.text == f"The sea was {first} and the sky was {second}."
    assert [len(gap.token_ids) for gap in output.gaps] == [4, 3]
    assert output.stats.steps == 7
    assert llm.config.mask_token_id not in output.canvas_token_ids


def test_canvas_prompts_fill_gaps_and_continue(no_tokenizer: LLM) -> None:
    canvas = [3, None, None, 4, None]
    output = no_tokenizer.generate({"canvas_token_ids": canvas}, SamplingParams(max_tokens=6, ignore_eos=True))[0]
    assert [gap.start for gap in output.gaps] == [1, 4]
    assert output.prompt_tokens == 2
    assert output.generation_tokens == 3 + 6
    assert output.stats.steps == 9
    assert (output.canvas_token_ids[0], output.canvas_token_ids[3]) == (3, 4)
    assert no_tokenizer.config.mask_token_id not in output.canvas_token_ids


def test_without_a_tokenizer_text_is_refused_and_ids_work(no_tokenizer: LLM) -> None:
    with pytest.raises(TokenizerError, match="prompt_token_ids"):
        no_tokenizer.generate("text")
    with pytest.raises(TokenizerError, match="prompt_token_ids"):
        no_tokenizer.chat([{"role": "user", "content": "hello"}])
    output = no_tokenizer.generate({"prompt_token_ids": [1, 2]}, SamplingParams(max_tokens=3))[0]
    assert output.text == ""


def test_one_bad_prompt_stops_everything_before_it_runs(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(llm.transformer, "hidden", fail)
    with pytest.raises(PromptError):
        llm.generate([*TEXTS * 5000, {"prompt_token_ids": [llm.config.mask_token_id]}], SHORT)


def test_non_finite_logits_fail_one_prompt_and_keep_the_others(tmp_path: Path) -> None:
    llm = LLM(write_checkpoint(tmp_path))
    llm.transformer.embedding.weight[7] = torch.inf
    prompts = [{"prompt_token_ids": ids} for ids in ([1, 2, 3], [1, 7, 3], [4, 5])]
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    with pytest.raises(NonFiniteLogitsError, match="NaN or infinite for prompt 1") as caught:
        llm.generate(prompts, params)
    outputs = caught.value.outputs
    assert [output.finish_reason for output in outputs] == ["length", "error", "length"]
    assert outputs[0] == llm.generate(prompts[0], params)[0]


def test_a_model_that_only_wants_to_say_mask_says_something_else(tmp_path: Path) -> None:
    llm = LLM(write_checkpoint(tmp_path))
    mask = llm.config.mask_token_id
    head = llm.transformer.lm_head.weight
    head[mask] = head.mean(0) * 100
    output = llm.generate({"prompt_token_ids": [1, 2]}, SamplingParams(max_tokens=6, ignore_eos=True))[0]
    assert mask not in output.canvas_token_ids
    assert output.finish_reason == "length"
    assert output.stats.steps == 6


def test_logits_are_a_plain_forward(llm: LLM) -> None:
    rows = llm.logits([[5, 6, 7]])
    assert rows.shape == (3, llm.config.embedding_size)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(llm.logits([5, 6, 7]), rows)
    torch.testing.assert_close(llm.logits([[5, 6, 7], [8]])[:3], rows)
    wrong: list[Any] = [[], [[]], [[4096]], [[-1]], [[True]], [[1.5]], [[1] * 513]]
    for bad in wrong:
        with pytest.raises(PromptError):
            llm.logits(bad)


def test_noise_floor_is_far_below_the_default_threshold_in_float32(llm: LLM) -> None:
    floor = llm.noise_floor(TEXTS, SHORT)
    assert 0 <= floor["median"] <= floor["p99"] <= floor["max"] < 1e-7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu9"}, "device is 'tpu9'; use cpu, cuda or cuda:N"),
        ({"dtype": "int8"}, "dtype is 'int8'; use one of float32, bfloat16, float16"),
    ],
)
def test_unknown_device_and_dtype(options: dict[str, str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        LLM(**options)  # type: ignore[arg-type]
