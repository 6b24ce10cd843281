"""A tiny model, a judge that needs none, and studies whose cells are counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from surelock import LLM
from surelock.measure.judge import Judge
from tests.server.tiny_llm import tiny_llm

LIMIT = 256


class FakeJudge:
    """Three nats for the first word of a text, one for each of the others; counts what it is asked."""

    name = "fake judge"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def negative_log_likelihood(self, prefix_texts: Sequence[str], texts: Sequence[str]) -> list[tuple[float, int]]:
        self.asked += zip(prefix_texts, texts, strict=True)
        return [(2.0 + len(text.split()), max(1, len(text.split()))) for text in texts]


@pytest.fixture(scope="session")
def tiny() -> LLM:
    return tiny_llm(LLM(device="cpu"), max_sequence_length=LIMIT, num_layers=2)


# Of this folder alone: what runs afterwards needs the real judge.
@pytest.fixture(scope="package")
def judge() -> Iterator[FakeJudge]:
    fake = FakeJudge()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judge, "load", lambda *arguments, **options: fake)
        patch.setenv("SURELOCK_COMMIT", "abc")
        yield fake
