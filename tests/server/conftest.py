"""One model and one server for many tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from surelock.llm import LLM
from tests.server.running import Running, running
from tests.server.tiny_llm import write_tiny_folder


@pytest.fixture(scope="session")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    """Says nothing sensible, in a thirtieth of the time."""
    return LLM(str(write_tiny_folder(tmp_path_factory.mktemp("tiny"), max_sequence_length=512)), device="cpu")


@pytest.fixture(scope="package")
def shared(llm: LLM) -> Iterator[Running]:
    """A server without keys that no test changes."""
    with running(llm) as server:
        yield server


@pytest.fixture(scope="session")
def embedded() -> LLM:
    return LLM(device="cpu")


@pytest.fixture(scope="package")
def embedded_server(embedded: LLM) -> Iterator[Running]:
    """As `surelock serve` starts it."""
    with running(embedded) as server:
        yield server
