from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from training.corpus.dedup import Deduplicator, overlap, shingles

LONG = (
    "The ship left the harbour at dawn with forty men and water for a month, and nobody on the quay waved to it. " * 2
)
WORDS = st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=8), max_size=60)


def kept(deduplicator: Deduplicator, *paragraphs: str, code: bool = False) -> list[str]:
    return deduplicator.keep(paragraphs, code=code).paragraphs


def test_the_first_of_equal_paragraphs_is_kept() -> None:
    deduplicator = Deduplicator()
    other = "A wholly different sentence that also has more than sixty characters in it."
    assert kept(deduplicator, LONG, other, LONG) == [LONG, other]
    assert kept(deduplicator, LONG, "new") == ["new"]


def test_short_paragraphs_are_always_kept() -> None:
    deduplicator = Deduplicator()
    assert kept(deduplicator, "Yes, I do.", "Yes, I do.") == ["Yes, I do.", "Yes, I do."]


def test_prose_is_equal_by_its_letters() -> None:
    deduplicator = Deduplicator()
    assert kept(deduplicator, LONG)
    assert not kept(deduplicator, LONG.upper().replace(",", ";"))


def test_code_is_equal_only_by_all_its_characters() -> None:
    first = "def total(values):\n    return sum(value for value in values if value > 0)\n"
    deduplicator = Deduplicator()
    assert kept(deduplicator, first, code=True)
    assert not kept(deduplicator, first.replace("    ", "\t"), code=True)
    assert kept(deduplicator, first.replace(">", "<"), code=True)


def test_a_paragraph_mostly_of_an_earlier_document_is_left_out() -> None:
    deduplicator = Deduplicator()
    assert kept(deduplicator, LONG)
    assert not kept(deduplicator, LONG + "Only this clause is new.")
    mostly_new = " ".join(f"word{number}" for number in range(200)) + LONG
    assert kept(deduplicator, mostly_new)


@given(WORDS)
def test_shingles_know_a_run_wherever_it_stands(words: list[str]) -> None:
    alone = shingles(" ".join(words))
    assert len(alone) <= max(0, len(words) - 7)
    assert set(alone) <= set(shingles("Before it, " + " ".join(words).upper() + "; and after."))


def test_overlap() -> None:
    assert overlap([1, 2, 3, 3], {3, 4}) == 0.5
