from __future__ import annotations

from pathlib import Path

from tests.training.corpus.packages import write_package
from training.corpus.document import Document
from training.corpus.readers.plain_text import read_moby_dick, read_speeches, sentence_runs


def test_chapters(tmp_path: Path) -> None:
    files = {
        "package/data/chapter_2.txt": b"I stuffed a shirt or two\ninto my old _carpet-bag_.",
        "package/data/chapter_1.txt": b"CHAPTER 1\n\nCall me Ishmael. Some years ago, I went to sea.",
        "package/README.md": b"It is a package of a novel by Herman Melville.",
    }
    assert list(read_moby_dick(write_package(tmp_path / "p.tgz", files))) == [
        Document("chapter_1.txt", ["Call me Ishmael. Some years ago, I went to sea."]),
        Document("chapter_2.txt", ["I stuffed a shirt or two into my old carpet-bag."]),
    ]


def test_speeches_keep_their_paragraphs_or_are_cut_into_runs(tmp_path: Path) -> None:
    paragraph = "The state of the union is strong, and the people of it are well."
    files = {
        "package/data/1790_a.txt": "\n\n".join([paragraph] * 4).encode(),
        "package/data/1791_b.txt": " ".join([paragraph] * 10).encode(),
    }
    first, second = read_speeches(write_package(tmp_path / "p.tgz", files))
    assert first == Document("1790_a.txt", [paragraph] * 4)
    assert second == Document("1791_b.txt", [" ".join([paragraph] * 8), " ".join([paragraph] * 2)])


def test_sentence_runs() -> None:
    assert sentence_runs("One two. Three! Four? five. Six.", 10) == ["One two. Three!", "Four? five.", "Six."]
    assert sentence_runs("", 10) == []
