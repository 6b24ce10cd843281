"""Answers are those of the library, whatever door they leave by."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from surelock import LLM, LockParams, SamplingParams
from surelock.server.body import validate
from surelock.server.sampling import lock_params
from surelock.server.schemas import CompletionRequest
from tests.server.running import Running
from tests.server.sse import events, stream, texts

PROMPT = "The committee has considered the report and"
COMPLETIONS = "/v1/completions"


def complete(server: Running, **fields: Any) -> dict[str, Any]:
    answer = server.post(COMPLETIONS, {"prompt": PROMPT, "max_tokens": 8} | fields)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def text_of(server: Running, **fields: Any) -> str:
    text: str = complete(server, **fields)["choices"][0]["text"]
    return text


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        ({}, SamplingParams(max_tokens=8)),
        ({"steps": 3}, SamplingParams(max_tokens=8, steps=3)),
        ({"block_length": 4, "steps": 4}, SamplingParams(max_tokens=8, block_length=4, steps=4)),
        ({"temperature": 0.7, "seed": 5}, SamplingParams(max_tokens=8, temperature=0.7, seed=5)),
        ({"unmasking": "random", "seed": 5}, SamplingParams(max_tokens=8, unmasking="random", seed=5)),
        ({"cfg_scale": 1.5}, SamplingParams(max_tokens=8, cfg_scale=1.5)),
        ({"preset": "off"}, SamplingParams(max_tokens=8, lock=None)),
        ({"lock": False}, SamplingParams(max_tokens=8, lock=None)),
        ({"preset": "permanent"}, SamplingParams(max_tokens=8, lock=LockParams.permanent())),
        ({"preset": "paper"}, SamplingParams(max_tokens=8, lock=LockParams.paper())),
        ({"lock": {"kl_threshold": 0.5}}, SamplingParams(max_tokens=8, lock=LockParams(kl_threshold=0.5))),
        ({"ignore_eos": True}, SamplingParams(max_tokens=8, ignore_eos=True)),
    ],
)
def test_parameters_reach_the_engine(shared: Running, llm: LLM, fields: dict[str, Any], params: SamplingParams) -> None:
    expected = llm.generate(PROMPT, params)[0]
    answer = complete(shared, **fields)
    assert answer["choices"][0]["text"] == expected.text
    assert answer["choices"][0]["surelock"]["active_ratio"] == expected.stats.active_ratio
    assert answer["choices"][0]["surelock"]["seed"] == expected.stats.seed
    assert answer["usage"]["surelock"]["steps"] == expected.stats.steps


@pytest.mark.parametrize(
    ("fields", "lock"),
    [
        ({}, LockParams()),
        ({"lock": {"refresh": 3}}, LockParams(refresh=3)),
        ({"lock": {"refresh": 0}}, LockParams.permanent()),
        ({"lock": {"refresh": None}}, LockParams.permanent()),
        ({"lock": {"refresh": None, "kl_threshold": None}}, LockParams.permanent()),
        ({"lock": {"kl_threshold": None}}, LockParams()),
        ({"preset": "permanent", "lock": {"kl_threshold": 0.5}}, LockParams.permanent(0.5)),
        ({"preset": "permanent", "lock": {"refresh": 6}}, LockParams()),
        ({"preset": "paper", "lock": {"kl_threshold": None}}, LockParams.paper()),
        (
            {"preset": "paper", "lock": {"confidence_percentile": None}},
            LockParams(min_visible_steps=0, refresh=None),
        ),
        ({"preset": "off", "lock": {"refresh": None}}, None),
    ],
)
def test_null_in_a_lock_is_none_where_there_may_be_none(fields: dict[str, Any], lock: LockParams | None) -> None:
    assert lock_params(validate(CompletionRequest, {"prompt": PROMPT} | fields)) == lock


def test_n_choices_draw_their_noise_from_seeds_that_follow_each_other(shared: Running) -> None:
    answer = complete(shared, n=3, temperature=1.0, seed=7)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [choice["surelock"]["seed"] for choice in answer["choices"]] == [7, 8, 9]
    alone = [text_of(shared, temperature=1.0, seed=seed) for seed in (7, 8, 9)]
    assert [choice["text"] for choice in answer["choices"]] == alone
    assert len(set(alone)) > 1


def test_a_drawn_seed_is_told_and_repeats_the_text(shared: Running) -> None:
    drawn = complete(shared, temperature=1.0)["choices"][0]
    assert text_of(shared, temperature=1.0, seed=drawn["surelock"]["seed"]) == drawn["text"]


def test_several_prompts(shared: Running, llm: LLM) -> None:
    assert llm.tokenizer is not None
    ids = [llm.tokenizer.encode(text) for text in ("One", "Two")]
    by_text = complete(shared, prompt=["One", "Two"], n=2)
    by_ids = complete(shared, prompt=ids, n=2)
    assert [choice["text"] for choice in by_text["choices"]] == [choice["text"] for choice in by_ids["choices"]]
    expected = [output.text for output in llm.generate(["One", "One", "Two", "Two"], SamplingParams(max_tokens=8))]
    assert [choice["text"] for choice in by_text["choices"]] == expected
    assert text_of(shared, prompt=ids[0]) == expected[0]


# What the model says, within a token and across several, and one that never comes.
@pytest.mark.parametrize("stop", ["from", ["zzz", "m fr"], "q"])
def test_stop_strings_end_the_text(shared: Running, llm: LLM, stop: str | list[str]) -> None:
    stops = [stop] if isinstance(stop, str) else stop
    expected = llm.generate(PROMPT, SamplingParams(max_tokens=24, stop=tuple(stops)))[0]
    answer = complete(shared, max_tokens=24, stop=stop)
    choice = answer["choices"][0]
    assert choice["text"] == expected.text
    assert choice["finish_reason"] == expected.finish_reason
    assert answer["usage"]["completion_tokens"] == expected.generation_tokens
    assert (choice["stop_reason"] in stops) == (expected.finish_reason == "stop")
    streamed = stream(shared, COMPLETIONS, prompt=PROMPT, max_tokens=24, stop=stop)
    assert "".join(texts(streamed)) == expected.text


def test_suffix_is_text_that_the_model_sees(shared: Running, llm: LLM) -> None:
    expected = llm.infill(["The sea was ", 6, ", and the sky was grey."], SamplingParams())
    answer = complete(shared, prompt="The sea was ", suffix=", and the sky was grey.", max_tokens=6)
    assert answer["choices"][0]["text"] == expected.gaps[0].text
    assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert answer["choices"][0]["text"] != text_of(shared, prompt="The sea was ", max_tokens=6)


def test_suffix_with_a_stop_string(shared: Running) -> None:
    fields = {"prompt": "The sea was ", "suffix": " and grey.", "max_tokens": 8}
    whole = text_of(shared, **fields)
    stop = whole.strip()[2:4]
    cut = complete(shared, **fields, stop=stop)["choices"][0]
    assert cut["text"] == whole[: whole.index(stop)]
    assert (cut["finish_reason"], cut["stop_reason"]) == ("stop", stop)


def test_fim_and_infill_are_the_same_gap(shared: Running) -> None:
    expected = text_of(shared, prompt="def add(a, b):\n", suffix="\n    return c", max_tokens=6)
    body = {"prompt": "def add(a, b):\n", "suffix": "\n    return c", "max_tokens": 6}
    fim = shared.post("/v1/fim/completions", body).json()
    assert fim["choices"][0]["message"]["content"] == fim["choices"][0]["text"] == expected
    body = {"input_prefix": "def add(a, b):\n", "input_suffix": "\n    return c", "n_predict": 6}
    infill = shared.post("/infill", body).json()
    assert infill["content"] == expected
    assert infill["tokens_predicted"] == 6
    with shared.client.stream("POST", "/infill", json=body | {"stream": True}) as answer:
        lines = [line for line in answer.iter_lines() if line]
    parts = events([*lines, "data: [DONE]"])
    assert "".join(part["content"] for part in parts) == expected
    assert [part["stop"] for part in parts][-1]


def test_infill_shows_the_extra_files_first(shared: Running) -> None:
    extra = {"input_extra": [{"filename": "a.py", "text": "x = 1"}], "input_prefix": "y", "n_predict": 2}
    longer = shared.post("/infill", extra).json()["tokens_evaluated"]
    assert longer > shared.post("/infill", {"input_prefix": "y", "n_predict": 2}).json()["tokens_evaluated"]


def test_a_template_gives_the_document(shared: Running, llm: LLM) -> None:
    template: list[str | int] = ["The sea was ", 2, 2, " and the sky", " was ", 3, "."]
    expected = llm.infill(template, SamplingParams()).text
    answer = shared.post(COMPLETIONS, {"template": template})
    assert answer.json()["choices"][0]["text"] == expected
    streamed = stream(shared, COMPLETIONS, template=template)
    assert "".join(texts(streamed)) == expected
    shown = texts(stream(shared, COMPLETIONS, template=template, diffusing=True))
    assert shown[0] == "The sea was ░░░░ and the sky was ░░░."
    assert shown[-1] == expected


@pytest.mark.parametrize("other", [{"prompt": "a"}, {"suffix": "a"}, {"max_tokens": 3}, {"stop": "a"}, {"logprobs": 0}])
def test_a_template_says_it_all(shared: Running, other: dict[str, Any]) -> None:
    answer = shared.post(COMPLETIONS, {"template": ["a", 2]} | other)
    assert answer.status_code == 400
    assert next(iter(other)) in answer.json()["error"]["message"]


def test_logprobs_are_those_of_the_commits(shared: Running, llm: LLM) -> None:
    confidences: dict[int, float] = {}

    def note(update: Any) -> None:
        confidences.update(zip(update.committed, update.confidence, strict=True))

    output = llm.generate(PROMPT, SamplingParams(max_tokens=8), on_step=note)[0]
    answer = complete(shared, logprobs=0)
    logprobs = answer["choices"][0]["logprobs"]
    expected = [math.log(confidences[output.prompt_tokens + index]) for index in range(8)]
    assert logprobs["token_logprobs"] == pytest.approx(expected, rel=1e-5)
    assert "".join(logprobs["tokens"]) == output.text
    assert logprobs["text_offset"][1] == len(logprobs["tokens"][0])
    chunks = stream(shared, COMPLETIONS, prompt=PROMPT, max_tokens=8, logprobs=0)
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [token for each in streamed for token in each["tokens"]] == logprobs["tokens"]
    assert [chance for each in streamed for chance in each["token_logprobs"]] == logprobs["token_logprobs"]
    assert [offset for each in streamed for offset in each["text_offset"]] == logprobs["text_offset"]
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "logprobs": True}
    content = shared.post("/v1/chat/completions", body).json()["choices"][0]["logprobs"]["content"]
    assert all(token["logprob"] <= 0 and token["bytes"] == list(token["token"].encode()) for token in content)


def test_case_34_a_batch_of_strangers_gives_everyone_his_own_answer(shared: Running, llm: LLM) -> None:
    prompts = [f"{PROMPT} {number}" for number in range(12)]
    params = [SamplingParams(max_tokens=4 + n % 5, temperature=n % 2, seed=n) for n in range(12)]
    expected = [llm.generate(prompt, own)[0].text for prompt, own in zip(prompts, params, strict=True)]

    def ask(number: int) -> str:
        own = params[number]
        fields = {"max_tokens": own.max_tokens, "temperature": own.temperature, "seed": number}
        if number % 3:
            return text_of(shared, prompt=prompts[number], **fields)
        return "".join(texts(stream(shared, COMPLETIONS, prompt=prompts[number], **fields)))

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == expected


def test_case_10_no_mask_in_any_text(shared: Running) -> None:
    answer = complete(shared, max_tokens=32, steps=1)
    assert "mask" not in answer["choices"][0]["text"]
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
