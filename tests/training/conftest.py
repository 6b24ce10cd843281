"""A tiny corpus and its tokenizer, built once."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from surelock.models.hub import EMBEDDED_FOLDER
from training.documents import GROUP_WEIGHTS
from training.prepare import prepare


@pytest.fixture(scope="session")
def tokenizer_file() -> Path:
    """The shipped tokenizer."""
    return EMBEDDED_FOLDER / "tokenizer.json"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    """What `training.prepare` writes from a corpus of two documents a group."""
    corpus = tmp_path_factory.mktemp("corpus")
    for group in GROUP_WEIGHTS:
        for split in ("train", "val"):
            texts = [f"A: the {group} is long\nB: it is, yes\n" * 40, "A: another one\nB: quite\n" * 12]
            with lzma.open(corpus / f"{group}.{split}.jsonl.xz", "wt") as lines:
                lines.writelines(json.dumps({"source": group, "text": text}) + "\n" for text in texts)
    out = tmp_path_factory.mktemp("data")
    prepare(corpus, Tokenizer.from_file(str(tokenizer_file)), out)
    return out
