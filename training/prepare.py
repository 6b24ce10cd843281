"""Turn the corpus into token arrays, once, before training.

    python -m training.prepare --corpus DIR --tokenizer DIR/tokenizer.json --out DIR

Writes one `<group>.<split>.npz` (`tokens` uint16 [T], `starts` int64 [documents + 1]) a group, and `chats.json`, the
(turn, reply) pairs of the training chats.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.documents import GROUP_WEIGHTS, Document, read_documents
from training.problems import chat_turns

# Characters; longer ones would not fit a canvas of 320 tokens with their prompt.
MAX_TURN_LENGTH: Final = 300


@dataclass(frozen=True, slots=True)
class TokenizedGroup:
    """The documents of a group, end to end: document i is tokens[starts[i]:starts[i + 1]]."""

    tokens: NDArray[np.uint16]
    starts: NDArray[np.int64]


def tokenize(tokenizer: Tokenizer, documents: Sequence[Document]) -> TokenizedGroup:
    """The documents' ids, without special tokens."""
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast([document.text for document in documents])]
    starts = np.concatenate([[0], np.cumsum([len(document) for document in ids])])
    return TokenizedGroup(np.concatenate([np.array(document, np.uint16) for document in ids]), starts)


def load_group(folder: Path, group: str, split: str) -> TokenizedGroup:
    """A group that `prepare` wrote."""
    with np.load(folder / f"{group}.{split}.npz") as arrays:
        return TokenizedGroup(arrays["tokens"], arrays["starts"])


def prepare(corpus: Path, tokenizer: Tokenizer, out: Path) -> dict[str, int]:
    """Write every group's arrays; returns the number of tokens of each."""
    out.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for split in ("train", "val"):
        documents = list(read_documents(corpus, split))
        for group in GROUP_WEIGHTS:
            arrays = tokenize(tokenizer, [document for document in documents if document.group == group])
            np.savez(out / f"{group}.{split}.npz", tokens=arrays.tokens, starts=arrays.starts)
            sizes[f"{group}.{split}"] = arrays.tokens.size
        if split == "train":
            chats = [turn for document in documents if document.group == "chat" for turn in chat_turns(document.text)]
            kept = [turn for turn in chats if all(2 < len(text) <= MAX_TURN_LENGTH for text in turn)]
            (out / "chats.json").write_text(json.dumps(kept))
    return sizes


def main() -> None:
    """Prepare a corpus folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    sizes = prepare(arguments.corpus, Tokenizer.from_file(str(arguments.tokenizer)), arguments.out)
    for name, size in sizes.items():
        print(f"{name:12s} {size / 1e6:8.2f} M tokens")


if __name__ == "__main__":
    main()
