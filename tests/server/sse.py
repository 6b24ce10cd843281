"""Reading a stream of events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from tests.server.running import Running


def events(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The objects of the events, without [DONE], which must come last."""
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [orjson.loads(each) for each in data[:-1]]


def stream(server: Running, path: str, **fields: Any) -> list[dict[str, Any]]:
    """The events of a request."""
    with server.client.stream("POST", path, json={"stream": True, **fields}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        return events(answer.iter_lines())


def texts(chunks: list[dict[str, Any]], index: int = 0) -> list[str]:
    """Of one choice of a completion."""
    return [choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
