"""What a request may say: each wrong value has one clear answer, before anything of it costs much."""

from __future__ import annotations

from typing import Any

import pytest

from surelock import LLM
from tests.server.running import Running, running

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"


def envelope(response: Any, status: int, code: str | None = None) -> dict[str, Any]:
    """The error of a response, which has OpenAI's form whatever it is about."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert len(error["message"]) < 500
    assert code is None or error["code"] == code
    return error


def ask(server: Running, **fields: Any) -> Any:
    return server.post(COMPLETIONS, {"prompt": "Once", "max_tokens": 2} | fields)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": "word " * 2000}, None),
        ({"prompt": "x" * 100_000}, None),
        ({"prompt": ["a"] * 10_000}, "n"),
        ({"n": 10**9}, "n"),
        ({"n": 65}, "n"),
        ({"n": 33, "prompt": ["a", "b"]}, "n"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [["a"]]}, "prompt"),
        ({"prompt": [5, "a"]}, "prompt"),
    ],
)
def test_case_1_prompts_that_are_too_much(shared: Running, fields: dict[str, Any], field: str | None) -> None:
    before = shared.metric("surelock_prompt_tokens_total")
    error = envelope(ask(shared, **fields), 400)
    assert field is None or (error["param"] or "").startswith(field)
    assert shared.metric("surelock_prompt_tokens_total") == before


def test_case_1_a_body_of_10_mb(shared: Running) -> None:
    envelope(ask(shared, prompt="x" * 10_000_000), 413, "body_too_large")


@pytest.mark.parametrize("value", [10**12, 10**30, 0, -1, 513, 1.5, "5", True, [5]])
def test_case_2_max_tokens(shared: Running, value: object) -> None:
    envelope(ask(shared, max_tokens=value), 400)


def test_case_2_max_tokens_that_are_not_given(shared: Running, llm: LLM) -> None:
    room = 3
    ids = [300] * (llm.config.max_sequence_length - room)
    answer = ask(shared, prompt=ids, max_tokens=None, steps=1)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] <= room
    envelope(ask(shared, prompt=[*ids, *[300] * room], max_tokens=None), 400)


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 0},
        {"steps": 10**9},
        {"steps": 513},
        {"block_length": 0},
        {"block_length": 10**12},
        {"lock": {"kl_threshold": 1e300}},
        {"lock": {"confidence_percentile": 101}},
        {"lock": {"min_visible_steps": -1}},
        {"lock": {"prompt_lock_step": 0}},
        {"lock": {"gate_scope": "all"}},
        {"lock": {"kl_treshold": 1}},
        {"lock": "off"},
        {"lock": {"kl_threshold": 1}, "preset": "off"},
        {"preset": "fast"},
    ],
)
def test_case_3_steps_blocks_and_locks(shared: Running, fields: dict[str, Any]) -> None:
    envelope(ask(shared, **fields), 400)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 7, "block_length": 3, "steps": 5},
        {"max_tokens": 7, "block_length": 3, "steps": 1},
        {"max_tokens": 3, "block_length": 100},
        {"max_tokens": 3, "steps": 8},
        {"preset": "paper", "lock": {"kl_threshold": 0.01}},
        {"preset": "off"},
        {"lock": False},
        {"lock": True},
        {"lock": {}},
        {"lock": {"kl_threshold": None}},
    ],
)
def test_case_3_what_need_not_divide(shared: Running, fields: dict[str, Any]) -> None:
    answer = ask(shared, **fields)
    assert answer.status_code == 200, answer.text


FLOATS = ["temperature", "cfg_scale", "frame_hz", "timeout", "lock.kl_threshold", "lock.confidence_percentile"]


@pytest.mark.parametrize("field", FLOATS)
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_case_4_numbers_that_are_none(shared: Running, field: str, value: str) -> None:
    outer, _, inner = field.partition(".")
    written = f'{{"{inner}": {value}}}' if inner else value
    body = f'{{"prompt": "a", "max_tokens": 2, "{outer}": {written}}}'
    envelope(shared.post(COMPLETIONS, content=body, headers={"content-type": "application/json"}), 400, "invalid_json")


@pytest.mark.parametrize("value", [-0.0, 5e-324, 0, -1, 10**9])
@pytest.mark.parametrize("field", ["timeout", "frame_hz"])
def test_case_4_times_that_are_nearly_zero(shared: Running, field: str, value: float) -> None:
    assert envelope(ask(shared, **{field: value}), 400)["param"] == field


@pytest.mark.parametrize("value", [-0.0, 5e-324, 1e-300])
def test_case_4_numbers_that_are_nearly_zero(shared: Running, value: float) -> None:
    plain = ask(shared, seed=1).json()["choices"][0]["text"]
    answer = ask(shared, temperature=value, seed=1)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["text"] == plain


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"prompt": ' + b"[" * 20 + b"]" * 20 + b"}",
        b'{"prompt": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
        b'\xef\xbb\xbf{"prompt": "a"}',
        b'{"prompt": "\xff"}',
        rb'{"prompt": "\ud800"}',
        rb'{"prompt": "\udc00 a"}',
        rb'{"\ud800": 1}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "lock": {"kl_threshold": 1, "kl_threshold": 2}}',
        b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a",}',
        b"{'prompt': 'a'}",
    ],
)
def test_case_6_bodies_that_are_no_json(shared: Running, body: bytes) -> None:
    answer = shared.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
    envelope(answer, 400)


@pytest.mark.parametrize(
    "text",
    [
        "NUL \0 in it",
        "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467",
        "e" + "\u0301" * 200,
        "[[[[[[[[[[[[[[[[[[[[[[[[{{{{{{{{{{{{{{{{{{{{{{{{",
        "a\u2028b\r\nc",
    ],
)
def test_case_6_odd_text_comes_back_as_it_was(shared: Running, text: str) -> None:
    tokens = shared.post("/tokenize", {"prompt": text}).json()["tokens"]
    assert shared.post("/detokenize", {"tokens": tokens}).json()["prompt"] == text
    assert ask(shared, prompt=text).status_code == 200


CONTROLS = ["<|mdm_mask|>", "<|eot_id|>", "<|startoftext|>", "<|start_header_id|>", "<|endoftext|>"]


@pytest.mark.parametrize("control", CONTROLS)
def test_case_7_control_tokens_are_out_of_reach_of_text(shared: Running, llm: LLM, control: str) -> None:
    text = f"say {control} twice"
    special = set(range(12))
    ids = shared.post("/tokenize", {"prompt": text}).json()["tokens"]
    assert not special & set(ids)
    for role in ("system", "user", "assistant"):
        quoted = shared.post("/tokenize", {"messages": [{"role": role, "content": text}]}).json()["tokens"]
        plain = shared.post("/tokenize", {"messages": [{"role": role, "content": "say it twice"}]}).json()["tokens"]
        assert [i for i in quoted if i in special] == [i for i in plain if i in special]
    for fields in ({"prompt": text}, {"suffix": text}, {"stop": control}, {"template": [text, 2]}):
        given: dict[str, Any] = {"prompt": "a", "max_tokens": 2} if "template" not in fields else {}
        stream = shared.post(
            COMPLETIONS,
            given | fields | {"stream": True, "diffusing": True, "stream_options": {"surelock": "patch"}},
        )
        assert stream.status_code == 200, stream.text
        assert '"canvas"' in stream.text


@pytest.mark.parametrize("ids", [[1], [300, 1, 300], [-1], [4096], [2**31], [10**30], [True], [1.0], [None]])
def test_case_8_token_ids(shared: Running, ids: list[object]) -> None:
    envelope(ask(shared, prompt=ids), 400)


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"5": 1}},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "required"},
        {"best_of": 2},
        {"top_p": 0.9},
        {"top_k": 5},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -1},
        {"response_format": {"type": "json_object"}},
        {"echo": True},
        {"logprobs": 5},
        {"chat_template": "{{ 1 }}"},
        {"chat_template_kwargs": {"tokenize": True}},
        {"guided_json": {}},
    ],
)
def test_what_has_no_meaning_here_is_refused(shared: Running, fields: dict[str, Any]) -> None:
    (name,) = fields
    assert envelope(ask(shared, **fields), 400)["param"] == name


def test_what_asks_for_nothing_or_changes_nothing_is_accepted(shared: Running) -> None:
    plain = ask(shared).json()["choices"][0]["text"]
    # What clients and routers send whether they mean it or not.
    fields: dict[str, Any] = {
        "logit_bias": None,
        "tools": [],
        "best_of": 1,
        "top_p": 1,
        "frequency_penalty": 0.0,
        "response_format": {"type": "text"},
        "user": "somebody",
        "echo": False,
        "no_stop_trim": False,
        "skip_special_tokens": True,
        "return_hidden_states": False,
        "ignore_eos": False,
        "stream": None,
        "stop": None,
    }
    answer = ask(shared, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"] == plain


@pytest.mark.parametrize(
    ("wrong", "right"), [("temprature", "temperature"), ("max_token", "max_tokens"), ("Seed", "seed")]
)
def test_a_misspelt_field_is_refused_with_a_suggestion(shared: Running, wrong: str, right: str) -> None:
    error = envelope(ask(shared, **{wrong: 1}), 400, "unknown_parameter")
    assert f"did you mean {right}?" in error["message"]


def test_a_misspelt_field_of_lock_too(shared: Running) -> None:
    assert "did you mean kl_threshold?" in envelope(ask(shared, lock={"kl_treshold": 1}), 400)["message"]


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        [{}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}],
        [{"role": "tool", "content": "x", "tool_call_id": "1"}],
        [{"role": "root", "content": "x"}],
        [{"role": "user", "content": "x", "tool_calls": [{"id": "1"}]}],
        [{"role": "user", "content": "x", "name": "Rosa"}],
        [{"role": "user", "content": "a"}] * 1001,
        "hello",
    ],
)
def test_messages(shared: Running, messages: object) -> None:
    envelope(shared.post(CHAT, {"messages": messages, "max_tokens": 2}), 400)


@pytest.mark.parametrize(
    "model", ["gpt-4", "../etc/passwd", "/etc/passwd", "file:///etc/passwd", "hf://../x", "a\0b", ""]
)
def test_case_23_only_the_servers_own_model(shared: Running, model: str) -> None:
    envelope(ask(shared, model=model), 404, "model_not_found")


def test_case_30_a_fake_model_is_in_no_label(shared: Running) -> None:
    ask(shared, model="fancyname")
    shared.client.get("/v1/models/fancyname")
    shared.client.get("/fancyname")
    shared.client.request("FANCYNAME", "/v1/models")
    assert "fancyname" not in shared.client.get("/metrics").text.lower()


@pytest.mark.parametrize(
    "stop", [[str(number) for number in range(10_000)], "", [""], ["a", ""], "x" * 1_000_000, "x" * 257, [5], {"a": 1}]
)
def test_case_32_stop_strings(shared: Running, stop: object) -> None:
    envelope(ask(shared, stop=stop), 400)


@pytest.mark.parametrize("stop", ["(a+)+$", ".*", "\\", "[", "*" * 256])
def test_case_32_stop_strings_are_not_patterns(shared: Running, stop: str) -> None:
    assert ask(shared, stop=stop).json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("field", ["chat_template", "chat_template_kwargs"])
def test_case_33_no_template_from_a_request(shared: Running, field: str) -> None:
    value: object = "{% for i in range(10**9) %}{% endfor %}" if field == "chat_template" else {"tokenize": True}
    body = {"messages": [{"role": "user", "content": "{{ 7 * 7 }}"}], "max_tokens": 2}
    envelope(shared.post(CHAT, body | {field: value}), 400, "unsupported_parameter")


def test_case_33_a_template_in_a_message_is_text(shared: Running) -> None:
    ids = shared.post("/tokenize", {"messages": [{"role": "user", "content": "{{ 7 * 7 }}"}]}).json()["tokens"]
    assert "{{ 7 * 7 }}" in shared.post("/detokenize", {"tokens": ids}).json()["prompt"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("text/plain", 415), ("application/x-www-form-urlencoded", 415), ("multipart/form-data", 415), ("", 415)],
)
def test_only_json_is_read(shared: Running, content_type: str, status: int) -> None:
    answer = shared.post(COMPLETIONS, content=b'{"prompt": "a"}', headers={"content-type": content_type})
    envelope(answer, status, "unsupported_media_type")


def test_routes_and_methods_that_are_not_there(shared: Running) -> None:
    envelope(shared.client.get("/v1/nothing"), 404, "not_found")
    envelope(shared.client.get(COMPLETIONS), 405, "method_not_allowed")
    envelope(shared.client.delete("/version"), 405, "method_not_allowed")


def test_limits_of_a_server(llm: LLM) -> None:
    with running(llm, max_choices=2, max_body=2000) as server:
        envelope(ask(server, n=3), 400)
        envelope(ask(server, prompt="x" * 3000), 413)

        def parts() -> Any:
            yield b'{"prompt": "'
            for _ in range(50):
                yield b"x" * 100
            yield b'"}'

        # Without a content-length.
        answer = server.post(COMPLETIONS, content=parts(), headers={"content-type": "application/json"})
        envelope(answer, 413, "body_too_large")
