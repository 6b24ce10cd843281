from __future__ import annotations

import struct
import zlib
from pathlib import Path

from tests.training.corpus.packages import write_package
from training.corpus.document import Document
from training.corpus.readers.bible import chapter_paragraphs, read_bible

GENESIS = (
    '<div><chapter osisID="Gen.1"><title>Genesis</title><p><verse n="1"/>In the beginning, God<note>Or Elohim</note> '
    'created the heavens.</p></chapter><chapter osisID="Gen.2"><p>The heavens and the earth were finished.</p>'
)


def test_chapters(tmp_path: Path) -> None:
    book = zlib.compress(GENESIS.encode())
    blocks = struct.pack("<III", 0, len(book), len(GENESIS)) + struct.pack("<III", 0, 0, 0)
    files = {"./m/ot.bzz": book, "./m/ot.bzs": blocks, "./m/nt.bzz": b"", "./m/nt.bzs": b"", "./m/ot.bzv": b"verses"}
    assert list(read_bible(write_package(tmp_path / "p.deb", files))) == [
        Document("ot/0/0", []),
        Document("ot/0/1", ["In the beginning, God created the heavens."]),
        Document("ot/0/2", ["The heavens and the earth were finished."]),
        Document("ot/1/0", []),
    ]


def test_lines_are_joined_to_whole_sentences_of_some_length() -> None:
    line = "The man of the hill went down to the river, " * 6
    markup = f"osisID='X'><l>{line}</l><l>and he was glad.</l><l>{line}</l><l>{line}</l><l>and he slept</l>"
    whole, rest = chapter_paragraphs(markup.replace("glad.</l>", "glad.</l>" + f"<l>{line}</l><l>and he ate.</l>"))
    assert whole.endswith("and he ate.")
    assert len(whole) > 420
    assert rest.endswith("and he slept")
