"""One model and one server for many tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from surelock.llm import LLM
from tests.server.running import Running, running


@pytest.fixture(scope="session")
def llm() -> LLM:
    return LLM(device="cpu")


@pytest.fixture(scope="package")
def shared(llm: LLM) -> Iterator[Running]:
    """A server without keys that no test changes."""
    with running(llm) as server:
        yield server
