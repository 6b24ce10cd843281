from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.corpus.packages import write_package
from training.corpus.readers.wordnet import dictionary_entry, read_wordnet

HEAD = "00001740 29 v 02 breathe 0 take_a_breath 0 001 $ 00005041 v 0000 01 + 02 00"


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (
            f'{HEAD} | draw air into, and expel out of, the lungs; "I can breathe better"; "he breathes"  ',
            "breathe (verb): draw air into, and expel out of, the lungs. Also: take a breath. "
            "Example: I can breathe better.",
        ),
        ("00001740 03 a 01 able(p) 0 000 | having means; or skill", "able (verb): having means; or skill."),
        ("00001740 03 n 01 London 0 000 | a city", ""),
        ("00001740 03 n 01 slut 0 000 | a word", ""),
        ("  1 This software and database is provided | as is", ""),
        ("", ""),
    ],
)
def test_dictionary_entry(line: str, entry: str) -> None:
    assert dictionary_entry(line, "verb") == entry


def test_all_entries_with_an_example_and_a_third_of_the_others(tmp_path: Path) -> None:
    plain = [f"0000174{number} 03 n 01 thing{number} 0 000 | a thing" for number in range(7)]
    told = [f'0000175{number} 03 n 01 deed{number} 0 000 | a deed; "...it is done"' for number in range(5)]
    files = {"./usr/share/wordnet/data.noun": "\n".join(plain + told).encode()}
    documents = list(read_wordnet(write_package(tmp_path / "p.deb", files)))
    assert [document.id for document in documents] == ["wn0", "wn6"]
    words = sorted(entry.split()[0] for document in documents for entry in document.paragraphs)
    assert words == [*(f"deed{number}" for number in range(5)), "thing0", "thing3", "thing6"]
