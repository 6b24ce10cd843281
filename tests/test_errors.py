"""`surelock.errors`: whatever a value or another library's error holds, a message stays one short line."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surelock import errors
from surelock.errors import SureLockError, shown, shown_error

HUGE = 10**5000
# Not st.just(HUGE), which hypothesis cannot print either.
huge_integers = st.builds(lambda: HUGE)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | huge_integers,
    lambda children: st.lists(children) | st.dictionaries(st.text() | st.integers() | huge_integers, children),
    max_leaves=50,
)


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "None"),
        (True, "True"),
        (-5, "-5"),
        (0.5, "0.5"),
        ("two\nlines  and spaces", r"'two\nlines  and spaces'"),
        ("a" * 60, f"'{'a' * 60}'"),
        ("a" * 61, f"'{'a' * 60}'..."),
        (b"bytes", "b'bytes'"),
        (2**127, str(2**127)),
        (2**128, "an integer of 129 bits"),
        ([HUGE, {"key": HUGE}], "[an integer of 16610 bits, {'key': an integer of 16610 bits}]"),
        ([[["deep"]]], "[[[...]]]"),
        (list(range(10**5)), "[0, 1, 2, 3, 4, 5, ...]"),
        (np.zeros((2, 2)), "array([[0., 0.], [0., 0.]])"),
    ],
)
def test_shown(value: object, expected: str) -> None:
    assert shown(value) == expected


def test_a_value_that_cannot_be_printed_is_shown_all_the_same() -> None:
    assert shown(Unprintable()).startswith("<Unprintable instance at 0x")


@given(value=values)
def test_anything_is_one_short_line(value: Any) -> None:
    assert len(shown(value).splitlines()) == 1
    assert len(shown(value)) < 5000


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\n  two"), "ValueError: one two"),
        (KeyError(), "KeyError: "),
        (OSError("\x1b[2Jred"), "OSError: ?[2Jred"),
        (RuntimeError("a" * 201), f"RuntimeError: {'a' * 200}"),
    ],
)
def test_shown_error(error: Exception, expected: str) -> None:
    assert shown_error(error) == expected


def test_the_tree_of_errors_is_the_one_described() -> None:
    described = {
        match[1]: match[2]
        for match in re.finditer(r"^\W*(\w+Error)\b.*?(?:also an? (\w+))?\)?$", str(errors.__doc__), re.M)
    }
    defined = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SureLockError)]
    assert described.keys() == {kind.__name__ for kind in defined}
    for kind in defined:
        assert not described[kind.__name__] or described[kind.__name__] in {base.__name__ for base in kind.__mro__}
        assert str(kind("one line")) == "one line"
