"""The embedded model and the shipped judge, loaded once."""

from __future__ import annotations

import pytest

from surelock import LLM
from surelock.measure.judge import Judge


@pytest.fixture(scope="session")
def embedded() -> LLM:
    return LLM(device="cpu")


@pytest.fixture(scope="session")
def judge() -> Judge:
    return Judge.load(device="cpu")
