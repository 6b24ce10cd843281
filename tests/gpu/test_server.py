"""The server over an engine on a CUDA device, with captured graphs whose results come a step late."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from surelock import LLM, SamplingParams
from tests.server.running import Running, running
from tests.server.sse import stream, texts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
PROMPT = "The committee has considered the report and"


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running(LLM(device="cuda", dtype=request.param)) as own:
        yield own


def test_an_answer_is_what_generate_gives_and_streams_end_in_it(server: Running) -> None:
    expected = server.service.llm.generate(PROMPT, SamplingParams(max_tokens=32))[0].text
    body = {"prompt": PROMPT, "max_tokens": 32}
    assert server.post("/v1/completions", body).json()["choices"][0]["text"] == expected
    assert "".join(texts(stream(server, "/v1/completions", **body))) == expected
    assert texts(stream(server, "/v1/completions", **body, diffusing=True, frame_hz=1000))[-1] == expected
    patches = stream(
        server, "/v1/completions", **body, diffusing=True, frame_hz=1000, stream_options={"surelock": "patch"}
    )
    assert sum(len(chunk["surelock"]["patch"]["tokens"]) for chunk in patches[1:]) == 32
    assert sum(len(chunk["surelock"]["patch"]["rows"]) for chunk in patches[1:]) == 32


def test_many_at_once_leave_nothing(server: Running) -> None:
    def ask(number: int) -> int:
        body = {"prompt": f"{PROMPT} {number}", "max_tokens": 24 + number % 8, "stream": number % 2 == 0}
        body |= {"logprobs": 0} if number % 3 else {}
        return server.post("/v1/completions", body).status_code

    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(ask, range(96))) == {200}
    server.until_idle()
