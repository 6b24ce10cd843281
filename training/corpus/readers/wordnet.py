"""WordNet's glosses as entries of a dictionary."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from training.corpus.archives import members
from training.corpus.clean import is_indecent, paragraph
from training.corpus.document import Document

_PARTS_OF_SPEECH: Final = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
_NUM_ENTRIES: Final = 6
_MAX_WORDS: Final = 3
_SEED: Final = 3


def read_wordnet(path: Path) -> Iterator[Document]:
    """Six entries a document, in random order: all with an example, and a third of the others."""
    with_example: list[str] = []
    without_example: list[str] = []
    for name, content in members(path, r"wordnet/data\.(noun|verb|adj|adv)$"):
        part_of_speech = _PARTS_OF_SPEECH[name.rpartition(".")[2]]
        for line in content.decode("latin1").split("\n"):
            entry = dictionary_entry(line, part_of_speech)
            if entry:
                # No space after it: cleaning takes it away before an example that opens with dots.
                (with_example if " Example:" in entry else without_example).append(entry)
    entries = with_example + without_example[::3]
    random.Random(_SEED).shuffle(entries)
    for start in range(0, len(entries), _NUM_ENTRIES):
        yield Document(f"wn{start}", entries[start : start + _NUM_ENTRIES])


def dictionary_entry(line: str, part_of_speech: str) -> str:
    """The entry of a synset, a line of wndb(5WN); empty for other lines, proper names and indecent words."""
    if "|" not in line or line.startswith("  "):
        return ""
    synset, gloss = line.split("|", 1)
    fields = synset.split()
    num_words = min(_MAX_WORDS, int(fields[3], 16))
    words = [re.sub(r"\(.*\)", "", fields[4 + 2 * index]).replace("_", " ") for index in range(num_words)]
    if any(word[:1].isupper() for word in words):
        return ""
    definition, *examples = [part.strip() for part in re.split(r";\s*(?=\")", gloss.strip())]
    entry = f"{words[0]} ({part_of_speech}): {definition.rstrip(';')}."
    if len(words) > 1:
        entry += " Also: " + ", ".join(words[1:]) + "."
    if examples:
        entry += " Example: " + examples[0].strip('"; ').rstrip(".") + "."
    entry = paragraph(entry)
    return "" if is_indecent(entry) else entry
