from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.corpus.clean import fold, has_contact, is_indecent, is_prose, paragraph, prose_paragraphs, unwrap


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("\u201cNa\u00efve\u201d \u2018caf\u00e9\u2019", "\"Naive\" 'cafe'"),
        ("a\u2014b\u2013c\u2026", "a - b-c..."),
        ("1\u00bd cups at 90\u00b0", "1 1/2 cups at 90 degrees "),
        ("\ufb01ne \u00c6sop\u200b", "fine AEsop"),
        ("\u4e2d", "\u4e2d"),
    ],
)
def test_fold(text: str, folded: str) -> None:
    assert fold(text) == folded


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  two\n\twords &amp; more  ", "two words & more"),
        ("dropped ( ) brackets [] , so", "dropped brackets, so"),
        ("one foreign letter in a hundred: \u4e2d" + "a" * 70, "one foreign letter in a hundred: " + "a" * 70),
        ("\u4e2d\u6587 text", ""),
        ("", ""),
    ],
)
def test_paragraph(text: str, clean: str) -> None:
    assert paragraph(text) == clean


@given(st.text())
def test_a_paragraph_is_ascii_in_one_line_with_single_spaces(text: str) -> None:
    clean = paragraph(text)
    assert clean.isascii()
    assert clean.isprintable()
    assert "  " not in clean
    assert clean == clean.strip()


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("A sentence of ordinary words.", True),
        ("Too short.", False),
        ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13.", False),
        ("Antidisestablishmentarianism internationalisation.", False),
        ("I a I a I a I a I a I a I a I a I a I", False),
        ("More of it is on the page www.example.org of the site.", False),
    ],
)
def test_is_prose(text: str, prose: bool) -> None:
    assert is_prose(text) == prose


@pytest.mark.parametrize(
    ("text", "found"),
    [("see http://a.b", True), ("me@mail.example", True), ("call 801-555-0100", True), ("12-345-6789, at noon", False)],
)
def test_has_contact(text: str, found: bool) -> None:
    assert has_contact(text) == found


def test_is_indecent_looks_at_whole_words() -> None:
    assert is_indecent("What the Fuck.")
    assert not is_indecent("A cocktail in Scunthorpe.")


def test_unwrap() -> None:
    assert unwrap("one \r\n  line\r\n\r\n  \n two\n") == ["one line", "two"]


def test_prose_paragraphs() -> None:
    text = "I\n\nIt was a dark and\nstormy night.\n\n* * *\n\nThe rain fell in torrents."
    assert prose_paragraphs(text) == ["It was a dark and stormy night.", "The rain fell in torrents."]
