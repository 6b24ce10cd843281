from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path

import pytest

from tests.training.corpus.packages import write_package
from training.corpus import build as build_module
from training.corpus.build import main
from training.corpus.package import Package
from training.corpus.readers.web_pages import web_pages
from training.corpus.sources import SOURCES, Source
from training.corpus.split import split_of

SHARED = "This paragraph stands on every page, as those on copyright and contact often do."
LETTERS = str.maketrans("0123456789", "ghijklmnop")
FREE = (
    "public domain",
    "MIT",
    "BSD-3-Clause",
    "PSF-2.0",
    "Apache-2.0",
    "PostgreSQL",
    "WordNet 3.0",
    "MIT or Apache-2.0",
)


def gibberish(seed: str) -> str:
    """Thirteen words no other seed gives."""
    letters = hashlib.sha256(seed.encode()).hexdigest().translate(LETTERS)
    return " ".join(letters[start : start + 5] for start in range(0, len(letters), 5)) + "."


def manual(folder: Path, name: str, attribution: str | None) -> Source:
    """A source of 300 pages, each of three paragraphs of which the last is the same for all."""
    pages = [[*map(gibberish, (f"{name} {page} a", f"{name} {page} b")), SHARED] for page in range(300)]
    files = {f"./doc/{number}.html": "".join(f"<p>{text}</p>" for text in page) for number, page in enumerate(pages)}
    path = write_package(folder / f"{name}.whl", {file: page.encode() for file, page in files.items()})
    package = Package("pypi", name, "1", path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    licence = "CC BY-SA 4.0" if attribution else "MIT"
    return Source(name, "docs", licence, package, web_pages("html"), "a manual", attribution)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    folder = tmp_path / "packages" / "pypi"
    folder.mkdir(parents=True)
    sources = [manual(folder, "second", None), manual(folder, "first", "By its authors")]
    monkeypatch.setattr(build_module, "SOURCES", sources)
    return sources


def records(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines()]


def test_build(tmp_path: Path, sources: list[Source], capsys: pytest.CaptureFixture[str]) -> None:
    out, test_file = tmp_path / "out", tmp_path / "data" / "test.jsonl.xz"
    arguments = ["--out", str(out), "--packages", str(tmp_path / "packages"), "--pack-test", str(test_file)]
    assert main(arguments) == 0

    documents = {split: records(out / f"docs.{split}.jsonl.xz") for split in ("train", "val", "test")}
    assert sum(map(len, documents.values())) == 600
    for split, some in documents.items():
        assert [split_of(document["source"], document["id"]) for document in some] == [split] * len(some)
        assert some == sorted(some, key=lambda document: (document["source"], document["id"]))
    assert documents["train"][0].keys() == {"source", "licence", "id", "text"}
    everything = [document for some in documents.values() for document in some]
    (with_shared,) = [document for document in everything if SHARED in document["text"]]
    assert (with_shared["source"], with_shared["id"]) == ("second", "doc/0.html")

    assert records(test_file) == [document for document in documents["test"] if document["source"] == "second"]
    manifest = (out / "MANIFEST.md").read_text()
    assert "| first | docs | CC BY-SA 4.0 | pypi first |" in manifest
    assert "- `first`, CC BY-SA 4.0: By its authors" in manifest
    assert "second`, MIT" not in manifest
    assert sources[0].package.sha256 in manifest
    assert "300 documents" in capsys.readouterr().out


def test_the_same_packages_give_the_same_bytes(tmp_path: Path, sources: list[Source]) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        assert main(["--out", str(out), "--packages", str(tmp_path / "packages")]) == 0
    first, second = ({path.name: path.read_bytes() for path in out.iterdir()} for out in outs)
    assert first == second
    assert first.keys() == {"MANIFEST.md", *(f"docs.{split}.jsonl.xz" for split in ("train", "val", "test"))}


def test_a_damaged_package_ends_the_build_with_one_line(
    tmp_path: Path, sources: list[Source], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "packages" / "pypi" / "first.whl").write_bytes(b"damaged")
    assert main(["--out", str(tmp_path / "out"), "--packages", str(tmp_path / "packages")]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert not told.out


def test_sources_are_free_or_attributed() -> None:
    for source in SOURCES:
        if source.attribution:
            assert source.licence in ("CC BY-SA 3.0", "CC BY-SA 4.0")
        else:
            assert source.licence in FREE
