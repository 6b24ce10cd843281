from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from training.corpus.sources import SOURCES
from training.corpus.split import Entry, Split, move_overlapping, split_of

AUSTEN = SOURCES[0]


@pytest.mark.parametrize(
    ("source", "document_id", "split"),
    [
        ("austen", "Mansfield Park/019", "test"),
        ("austen", "Emma/001", "train"),
        ("austen", "Persuasion/001", "test"),
        ("pycode", "codeio/1039", "test"),
        ("wiki", "2001: A Space Odyssey", "train"),
        ("verse", "b203", "val"),
    ],
)
def test_splits_never_change(source: str, document_id: str, split: Split) -> None:
    assert split_of(source, document_id) == split


def test_shares() -> None:
    counts = Counter(split_of("any", str(number)) for number in range(20_000))
    assert counts["test"] / 20_000 == pytest.approx(0.015, abs=0.003)
    assert counts["val"] / 20_000 == pytest.approx(0.010, abs=0.003)


def test_held_out_documents_that_overlap_with_training_move_there() -> None:
    def entry(document_id: str, shingles: list[int], split: Split) -> Entry:
        return Entry(AUSTEN, document_id, "text", shingles, split)

    entries = [
        entry("training", [*range(100)], "train"),
        entry("a tenth", [*range(90, 190)], "test"),
        entry("over a tenth", [*range(89, 189)], "val"),
        entry("too few to tell", [1, 2, 3, 4], "test"),
        entry("Persuasion/001", [*range(100)], "test"),
    ]
    assert move_overlapping(entries) == 1
    assert [entry.split for entry in entries] == ["train", "test", "train", "test", "test"]
    # Moved documents do not pull others after them.
    assert move_overlapping([replace(entry) for entry in entries[:1] + entries[3:]]) == 0
