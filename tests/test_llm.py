"""The public door, on the embedded model and on small broken ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import surelock
from surelock import LLM, EngineConfig, LockParams, SamplingParams
from surelock.decoding.oracle import oracle_decode
from surelock.errors import NonFiniteLogitsError, ParameterError, PromptError, TokenizerError
from surelock.measure.verify import noise_floor
from surelock.models.hub import EMBEDDED_FOLDER
from surelock.models.transformer import Transformer
from surelock.text.answers import num_tokens_within
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
    with pytest.raises(AttributeError, match="it has LLM, EngineConfig, LockParams"):
        _ = surelock.Llm


def test_the_embedded_model_is_the_default(llm: LLM) -> None:
    assert llm.folder == EMBEDDED_FOLDER
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
        # Computed is what no earlier step locked, and in every sixth step all; the last step tests nothing.
        for step, rows in enumerate(stats.active_rows, start=1):
            assert rows == sum(at is None or at >= step or step % 6 == 0 for at in stats.locked_at)
        assert max(at or 0 for at in stats.locked_at) < 12
        assert stats.seed is None


def test_text_equals_the_oracle_on_the_embedded_model(llm: LLM) -> None:
    assert llm.tokenizer is not None
    params = replace(SHORT, lock=LockParams(kl_threshold=5e-3), block_length=6)
    output = llm.generate(TEXTS[0], params)[0]
    ids = llm.tokenizer.encode(TEXTS[0])
    oracle = oracle_decode(llm.transformer, ids, params, mask_token_id=llm.config.mask_token_id)
    assert output.canvas_token_ids == oracle.tokens
    assert output.stats.locked_at == oracle.locked_at


def test_one_params_for_each_prompt(llm: LLM) -> None:
    outputs = llm.generate(TEXTS, [SHORT, replace(SHORT, max_tokens=5)])
    assert [output.stats.steps for output in outputs] == [12, 5]
    with pytest.raises(ParameterError, match="params has 1 entries for 2 prompts"):
        llm.generate(TEXTS, [SHORT])


BAD_PARAMS: list[tuple[Any, str]] = [
    (5, "params is 5; pass a SamplingParams"),
    ({"max_tokens": 5}, "params is {'max_tokens': 5}; pass a SamplingParams"),
    ("fast", "params is 'fast'; pass a SamplingParams"),
]


@pytest.mark.parametrize(("params", "message"), BAD_PARAMS)
def test_params_of_another_kind(llm: LLM, params: Any, message: str) -> None:
    messages = [{"role": "user", "content": "hello"}]
    calls: list[Callable[[], object]] = [
        lambda: llm.generate("a", params),
        lambda: llm.stream("a", params),
        lambda: llm.chat(messages, params),
        lambda: llm.infill(["a", 2], params),
        lambda: llm.encode("a", params),
    ]
    for call in calls:
        with pytest.raises(ParameterError) as caught:
            call()
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


def test_a_list_of_params_where_one_is_wanted_or_of_another_kind(llm: LLM) -> None:
    with pytest.raises(ParameterError, match=r"params is \[SamplingParams\(.*; pass a SamplingParams"):
        llm.infill(["a", 2], [SHORT])  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"params is \[SamplingParams\(.*; pass a SamplingParams"):
        llm.chat([{"role": "user", "content": "hello"}], [SHORT])  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"params\[1\] is 5; pass a SamplingParams"):
        llm.generate(TEXTS, [SHORT, 5])  # type: ignore[list-item]


def test_on_step_must_be_a_function(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_running(llm, monkeypatch)
    wrong: Any = 5
    message = "on_step is 5; pass a function that takes a StepUpdate"
    with pytest.raises(ParameterError, match=message):
        llm.generate("a", SHORT, on_step=wrong)
    with pytest.raises(ParameterError, match=message):
        llm.chat([{"role": "user", "content": "hello"}], SHORT, on_step=wrong)
    with pytest.raises(ParameterError, match=message):
        llm.infill(["a", 2], SHORT, on_step=wrong)


def test_a_threshold_below_rounding_is_refused_before_anything_runs(tmp_path: Path) -> None:
    llm = LLM(write_checkpoint(tmp_path), dtype="bfloat16", device="cpu")
    params = SamplingParams(max_tokens=2, lock=LockParams(kl_threshold=1e-9))
    for call in (llm.generate, llm.stream, llm.encode):
        with pytest.raises(ParameterError, match=r"lock.kl_threshold is 1e-09; on a .*bfloat16 model"):
            call({"prompt_token_ids": [1]}, params)
    with pytest.raises(ParameterError, match=r"lock.kl_threshold is 1e-09"):
        llm.infill([2], params)


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
        full = output.stats.flops["full"]
        assert own[-1].flops == (full["locked"], full["base"])


def test_slots_go_from_call_to_call_but_never_to_two_at_once(llm: LLM) -> None:
    expected = llm.generate(TEXTS, SHORT)
    engine = llm._idle_engine
    assert engine is not None
    assert llm.generate(TEXTS[0], SHORT)[0] == expected[0]
    assert llm._idle_engine is engine
    # Two streams opened before either runs, and a call in between.
    first, second = llm.stream(TEXTS[0], SHORT), llm.stream(TEXTS[1], SHORT)
    updates = [(next(first), next(second)) for _ in range(6)]
    assert llm.generate(TEXTS, SHORT) == expected
    updates += [(next(first), next(second)) for _ in range(6)]
    assert [update.output for update in updates[-1]] == expected


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


def test_stop_without_a_tokenizer_or_without_appended_tokens_is_refused(llm: LLM, no_tokenizer: LLM) -> None:
    params = SamplingParams(max_tokens=4, stop=("x",))
    with pytest.raises(ParameterError, match=r"stop is \('x',\), but the model has no tokenizer.*leave it out"):
        no_tokenizer.generate({"prompt_token_ids": [1, 2]}, params)
    nothing_appended = r"stop is \('x',\), but it cuts the appended tokens, and with max_tokens 0.*leave it out"
    with pytest.raises(ParameterError, match=nothing_appended):
        llm.infill(["a", 3], params)
    with pytest.raises(ParameterError, match=nothing_appended):
        llm.generate({"canvas_token_ids": [5, None]}, replace(params, max_tokens=0))


@given(text=st.text(max_size=40), ids=st.lists(st.integers(0, 4095), max_size=20), data=st.data())
def test_tokens_within_a_text_are_found_as_by_trying_every_length(
    llm: LLM, text: str, ids: list[int], data: st.DataObject
) -> None:
    tokenizer = llm.tokenizer
    assert tokenizer is not None
    token_ids = data.draw(st.sampled_from([ids, tokenizer.encode(text), tokenizer.encode(text)[1:] + ids]))
    cut = data.draw(st.integers(0, len(tokenizer.decode(token_ids))))
    num = 0
    while num < len(token_ids) and len(tokenizer.decode(token_ids[: num + 1])) <= cut:
        num += 1
    assert num_tokens_within(token_ids, cut, tokenizer.decode) == num


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


SEGMENTS: list[tuple[list[str | int], int]] = [
    (["a ", 2, 3, " b."], 1),
    (["a ", 2, "", 3, " b."], 1),
    ([3, 3], 1),
    ([2, " and ", 3], 2),
    (["", 2, "x", "", "y", 1], 2),
    (["<|endoftext|>", 2, "[MASK]\r\n", 1, "\u00e9"], 2),
    (["a", 2, np.int64(3)], 1),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("segments", "num_gaps"), SEGMENTS)
def test_infill_takes_any_order_of_strings_and_gaps(llm: LLM, segments: list[str | int], num_gaps: int) -> None:
    output = llm.infill(segments)
    assert len(output.gaps) == num_gaps
    assert sum(len(gap.token_ids) for gap in output.gaps) == sum(s for s in segments if not isinstance(s, str))
    texts = iter(gap.text for gap in output.gaps)
    runs = groupby((part for part in segments if part != ""), key=lambda part: isinstance(part, str))
    assert output.text == "".join("".join(map(str, run)) if is_text else next(texts) for is_text, run in runs)


def test_a_string_that_encodes_to_nothing_stays_where_it_was(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert llm.tokenizer is not None
    encode = llm.tokenizer.encode
    monkeypatch.setattr(llm.tokenizer, "encode", lambda text, bos=True: [] if text == "~" else encode(text, bos=bos))
    output = llm.infill(["a ", 2, "~", 3, " b."])
    (gap,) = output.gaps
    first, second = llm.tokenizer.decode(gap.token_ids[:2]), llm.tokenizer.decode(gap.token_ids[2:])
    assert output.text == f"a {first}~{second} b."


def test_gaps_that_touch_are_read_as_one_text(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    # A character may have bytes in both.
    monkeypatch.setattr(llm.tokenizer, "decode", lambda ids: f"<{len(ids)}>")
    assert llm.infill(["a ", 2, "", 3, " b", 1]).text == "a <5> b<1>"


def test_infill_without_a_tokenizer_fills_ids(no_tokenizer: LLM) -> None:
    output = no_tokenizer.infill([3, 2])
    assert output.text == ""
    assert len(output.token_ids) == 5


def test_infill_does_not_use_block_length_or_max_tokens(llm: LLM) -> None:
    segments: list[str | int] = ["The sea was ", 4, " and the sky was ", 3, "."]
    assert llm.infill(segments, SamplingParams(max_tokens=9, block_length=2)) == llm.infill(segments)


def test_end_ids_in_gaps_are_kept(no_tokenizer: LLM) -> None:
    prompt = {"canvas_token_ids": [3, None, None, 4]}
    params = SamplingParams(max_tokens=0)
    whole = no_tokenizer.generate(prompt, params)[0]
    no_tokenizer.config = replace(no_tokenizer.config, eos_token_ids=tuple(whole.token_ids))
    again = no_tokenizer.generate(prompt, params)[0]
    assert again.token_ids == whole.token_ids
    assert again.finish_reason == "length"


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


def forbid_running(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(llm.transformer, "hidden", fail)


def test_one_bad_prompt_stops_everything_before_it_runs(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_running(llm, monkeypatch)
    with pytest.raises(PromptError):
        llm.generate([*TEXTS * 5000, {"prompt_token_ids": [llm.config.mask_token_id]}], SHORT)


def test_non_finite_logits_fail_one_prompt_and_keep_the_others(tmp_path: Path) -> None:
    llm = LLM(write_checkpoint(tmp_path))
    llm.transformer.embedding.weight[7] = torch.inf
    prompts = [{"prompt_token_ids": ids} for ids in ([1, 2, 3], [1, 7, 3], [4, 5])]
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    with pytest.raises(NonFiniteLogitsError, match=r"NaN or infinite for prompt 1 .*every prompt's output") as caught:
        llm.generate(prompts, params)
    outputs = caught.value.outputs
    assert [output.finish_reason for output in outputs] == ["length", "error", "length"]
    assert outputs[0] == llm.generate(prompts[0], params)[0]
    assert outputs[2] == llm.generate(prompts[2], params)[0]


def test_a_failed_request_keeps_the_tokens_it_got_and_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(device="cpu")
    assert llm.tokenizer is not None
    compute, num_calls = Transformer.hidden, 0

    def fail_from_the_fourth_step(self: Transformer, batch: Any, kv: Any) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        hidden = compute(self, batch, kv)
        return hidden * torch.nan if num_calls >= 4 else hidden

    monkeypatch.setattr(Transformer, "hidden", fail_from_the_fourth_step)
    params = SamplingParams(max_tokens=8, ignore_eos=True, lock=None)
    updates = list(llm.stream({"canvas_token_ids": [*llm.tokenizer.encode("Call me"), None, None]}, params))
    output, mask = updates[-1].output, llm.config.mask_token_id
    assert output is not None
    assert (output.finish_reason, len(updates)) == ("error", 4)
    kept = [token for token in output.canvas_token_ids[output.prompt_tokens :] if token != mask]
    assert output.token_ids == kept
    assert len(kept) == 3
    assert output.text == llm.tokenizer.decode(kept)
    assert output.canvas_token_ids.count(mask) == 10 - 3

    num_calls = 0
    with pytest.raises(NonFiniteLogitsError) as caught:
        llm.infill(["Call me ", 6, "."])
    (failed,) = caught.value.outputs
    assert failed.text.startswith("Call me ")
    assert failed.text.endswith(".")


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
    as_numpy: Any = [np.int64(5), np.int32(6), np.uint8(7)]
    torch.testing.assert_close(llm.logits(as_numpy), rows)
    torch.testing.assert_close(llm.logits([as_numpy]), rows)


BAD_LOGITS: list[tuple[Any, str]] = [
    (None, "logits was given None; pass a list of token ids"),
    (5, "logits was given 5; pass a list"),
    ("abc", "logits was given 'abc'; pass a list"),
    ([], r"logits was given \[\]; pass a list"),
    (np.array([5, 6]), r"logits was given array\(\[5, 6\]\); pass .*arrays and tensors have tolist\(\)"),
    ([np.array([5, 6])], r"a canvas is array\(\[5, 6\]\); it must be a list of 1 to 512 token ids"),
    ([[]], r"a canvas is \[\]; it must be a list of 1 to 512"),
    ([[5], None], "a canvas is None; it must be a list"),
    ([[1] * 513], "it must be a list of 1 to 512 token ids"),
    ([[4096]], "token id 4096 at position 0 is not an integer from 0 to 4095"),
    ([[5, -1]], "token id -1 at position 1"),
    ([True], "token id True at position 0"),
    ([[1.5]], "token id 1.5 at position 0"),
]


@pytest.mark.parametrize(("token_ids", "message"), BAD_LOGITS)
def test_bad_token_ids_for_logits(llm: LLM, monkeypatch: pytest.MonkeyPatch, token_ids: Any, message: str) -> None:
    forbid_running(llm, monkeypatch)
    with pytest.raises(PromptError, match=message) as caught:
        llm.logits(token_ids)
    assert "\n" not in str(caught.value)


def test_noise_floor_is_far_below_the_default_threshold_in_float32(llm: LLM) -> None:
    floor = noise_floor(llm, TEXTS, SHORT)
    assert 0 <= floor["median"] <= floor["p99"] <= floor["max"] < 1e-7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu9"}, "device is 'tpu9'; use cpu, cuda or cuda:N"),
        *(({"device": name}, f"device is {name!r}; use cpu, cuda or cuda:N") for name in ("meta", "mps", "xpu", "")),
        ({"device": "cuda:x"}, "device is 'cuda:x'; use cpu, cuda or cuda:N"),
        ({"device": "cuda:-1"}, "device is 'cuda:-1'; use cpu, cuda or cuda:N"),
        ({"device": 3.5}, r"device is 3\.5; use cpu, cuda or cuda:N"),
        ({"dtype": "int8"}, "dtype is 'int8'; use one of float32, bfloat16, float16"),
        ({"dtype": ["x"]}, r"dtype is \['x'\]; use one of float32"),
        ({"engine_config": {"max_batch_size": 2}}, "engine_config is {'max_batch_size': 2}; pass an EngineConfig"),
    ],
)
def test_unknown_device_dtype_and_engine_config(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        LLM(**options)


def test_threads_are_set_only_where_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    write_checkpoint(tmp_path)
    LLM(tmp_path, device="cpu")
    assert asked == []
    LLM(tmp_path, device="cpu", engine_config=EngineConfig(num_threads=3))
    assert asked == [3]


@pytest.mark.parametrize(
    ("num_devices", "device", "message"),
    [
        (0, "cuda", "device is 'cuda', but this torch sees no CUDA device; use cpu"),
        (0, "cuda:1", "device is 'cuda:1', but this torch sees no CUDA device; use cpu"),
        (2, "cuda:2", "device is 'cuda:2', but the last CUDA device here is cuda:1; use it"),
        (2, "cuda:999999999", "the last CUDA device here is cuda:1"),
    ],
)
def test_cuda_devices_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, num_devices: int, device: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_devices)
    with pytest.raises(ParameterError, match=message):
        LLM(device=device)


def test_a_torch_device_is_accepted(tmp_path: Path) -> None:
    assert LLM(write_checkpoint(tmp_path), device=torch.device("cpu")).device == torch.device("cpu")
