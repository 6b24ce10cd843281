from __future__ import annotations

import pytest

from surelock.openai_fields import IGNORED, NEUTRAL, asks_for_nothing, suggestion


@pytest.mark.parametrize(
    ("value", "neutral", "nothing"),
    [
        (None, (), True),
        (1, (1,), True),
        (1.0, (1,), True),
        (True, (1,), False),
        (0, (False,), False),
        ({}, ({},), True),
        ([], ({},), False),
        ("auto", ("none", "auto"), True),
    ],
)
def test_what_asks_for_nothing(value: object, neutral: tuple[object, ...], nothing: bool) -> None:
    assert asks_for_nothing(value, neutral) is nothing


def test_a_field_is_ignored_or_checked() -> None:
    assert not IGNORED & NEUTRAL.keys()


def test_a_suggestion_is_near_enough() -> None:
    assert suggestion("temprature", ["seed", "temperature"]) == "; did you mean temperature?"
    assert suggestion("Seed", ["seed"]) == "; did you mean seed?"
    assert suggestion("Seed", ["seed"], cutoff=0.8) == ""
    assert suggestion("x" * 100_000, ["seed"]) == ""
