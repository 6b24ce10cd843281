"""The embedded model's tokenizer over a transformer so small that a step takes about a millisecond."""

from __future__ import annotations

import shutil
import sys
from copy import copy
from pathlib import Path

import orjson

from surelock import LLM
from surelock.models.hub import EMBEDDED_FOLDER
from tests.checkpoints import write_checkpoint
from tests.tiny import tiny_model


def tiny_llm(llm: LLM, *, max_sequence_length: int = 64, num_layers: int = 1) -> LLM:
    """A model that says nothing sensible, quickly."""
    own = copy(llm)
    vocabulary = llm.config.vocab_size
    own.transformer = tiny_model(
        vocab_size=vocabulary,
        embedding_size=vocabulary,
        mask_token_id=llm.config.mask_token_id,
        eos_token_ids=llm.config.eos_token_ids,
        max_sequence_length=max_sequence_length,
        num_layers=num_layers,
    )
    own.config = own.transformer.config
    return own


def write_tiny_folder(folder: Path, *, max_sequence_length: int = 64) -> Path:
    """The same as a folder for `surelock serve --model`: `python -m tests.server.tiny_llm FOLDER`."""
    own = orjson.loads((EMBEDDED_FOLDER / "config.json").read_bytes())
    names = ("vocab_size", "embedding_size", "mask_token_id", "eos_token_id", "pad_token_id")
    kept = {name: own[name] for name in names if name in own}
    write_checkpoint(folder, **kept, n_layers=1, max_sequence_length=max_sequence_length)
    for file in EMBEDDED_FOLDER.glob("*token*.json"):
        shutil.copy(file, folder)
    return folder


if __name__ == "__main__":
    write_tiny_folder(Path(sys.argv[1]))
