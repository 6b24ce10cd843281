"""Text of a canvas that settles out of order: what is sent once is never taken back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surelock import LLM
from surelock.text.answers import Layout, find_stop, num_held_back, num_tokens_within, token_texts

END = 300


def decode(ids: Sequence[int]) -> str:
    """The ids 0 to 255 are bytes, and the others are nothing."""
    return bytes(token for token in ids if token < 256).decode(errors="replace")


byte_strings = st.one_of(st.text(alphabet="ab é€😀\n", max_size=12).map(str.encode), st.binary(max_size=12))
stop_strings = st.lists(st.text(alphabet="ab é€", min_size=1, max_size=4), max_size=3)


@given(data=st.data(), raw=byte_strings, stops=stop_strings, end=st.one_of(st.none(), st.integers(0, 12)))
def test_joined_deltas_are_the_final_text(data: st.DataObject, raw: bytes, stops: list[str], end: int | None) -> None:
    tokens = list(raw)
    if end is not None and end <= len(tokens):
        tokens.insert(end, END)
    layout = Layout((range(len(tokens)),), frozenset({END}), tuple(stops))
    whole = layout.final_text(tokens, [False] * len(tokens), decode)

    order = data.draw(st.permutations(range(len(tokens))))
    masked = [True] * len(tokens)
    sent = ""
    for position in order:
        masked[position] = False
        final = layout.final_text([t if not m else END for t, m in zip(tokens, masked, strict=True)], masked, decode)
        assert final.text.startswith(sent)
        assert whole.text.startswith(final.text)
        assert final.stop is None or (final.text, final.stop) == (whole.text, whole.stop)
        sent = final.text
    assert sent == whole.text


@given(raw=byte_strings, stops=stop_strings)
def test_the_end_is_that_of_a_plain_search(raw: bytes, stops: list[str]) -> None:
    text = raw.decode(errors="replace")
    final = Layout((range(len(raw)),), stops=tuple(stops)).final_text(list(raw), [False] * len(raw), decode)
    at = min((text.index(stop) for stop in stops if stop in text), default=len(text))
    assert final.text == text[:at]
    assert (final.stop is not None) == any(stop in text for stop in stops)


@given(raw=byte_strings)
def test_token_texts_join_to_the_text(raw: bytes) -> None:
    texts = token_texts(list(raw), decode)
    assert len(texts) == len(raw)
    assert "".join(texts) == raw.decode(errors="replace")


def test_token_texts_of_a_real_tokenizer() -> None:
    llm = LLM()
    assert llm.tokenizer is not None
    text = "Zwölf 😀 naïve  spaces\n\tand   ends."
    ids = llm.tokenizer.encode(text)
    assert "".join(token_texts(ids, llm.tokenizer.decode)) == text


def test_a_finished_character_waits_for_nothing() -> None:
    euro = list("€".encode())
    layout = Layout((range(4),))
    assert layout.final_text([*euro, 97], [False, False, True, False], decode).text == ""
    assert layout.final_text([*euro, 97], [False, False, False, True], decode).text == "€"


@pytest.mark.parametrize(
    ("text", "stops", "held"),
    [("ab", ["abc"], 2), ("xa", ["abc"], 1), ("abc", ["abc"], 0), ("x", ["abc"], 0), ("aab", ["abc", "bx"], 2)],
)
def test_what_is_held_back(text: str, stops: list[str], held: int) -> None:
    assert num_held_back(text, stops) == held


def test_the_longest_of_the_stops_that_begin_first() -> None:
    assert find_stop("xxabc", ["c", "ab", "abc"]) == (2, "abc")
    assert find_stop("xx", ["c"]) == (2, None)


def test_tokens_within() -> None:
    assert num_tokens_within(list(b"abcd"), 2, decode) == 2
    assert num_tokens_within(list("é€".encode()), 1, decode) == 2


def test_a_document_with_gaps_stops_at_the_first_mask() -> None:
    layout = Layout(("The ", range(2), " and ", range(3, 5), "."))
    tokens = list(b"ab cd")
    assert layout.final_text(tokens, [False, True, False, False, False], decode).text == "The a"
    assert layout.final_text(tokens, [False] * 5, decode).text == "The ab and cd."
    assert layout.shown_text(tokens, [False, True, False, True, False], decode, "_") == "The a_ and _d."
