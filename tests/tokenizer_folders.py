"""Writes and loads tokenizer folders, and draws texts to encode with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

import surelock
from surelock.models.config import ModelConfig
from surelock.text.tokenizer import Tokenizer

EMBEDDED = Path(surelock.__file__).parent / "embedded"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
END, MASK, START = 0, 1, 2

SPECIAL_TOKENS = [token["content"] for token in json.loads((EMBEDDED / "tokenizer.json").read_text())["added_tokens"]]
NUM_SPECIAL = len(SPECIAL_TOKENS)
NUM_EMBEDDED_IDS = 4096

texts = st.text(st.characters(exclude_categories=["Cs"]))
# hypothesis draws strings it finds in source files, too.
innocent_texts = texts.filter(lambda text: not any(token in text for token in SPECIAL_TOKENS))
hostile_texts = st.lists(st.sampled_from(SPECIAL_TOKENS) | st.sampled_from(["<|", "|>", "\n", " "]) | texts).map(
    "".join
)


def make_config(**overrides: Any) -> ModelConfig:
    """The embedded model's config, with some fields replaced."""
    fields: dict[str, Any] = {
        "family": "llada",
        "vocab_size": 4096,
        "embedding_size": 4096,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_layers": 8,
        "num_heads": 6,
        "num_kv_heads": 6,
        "head_dim": 64,
        "max_sequence_length": 512,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "mask_token_id": MASK,
        "eos_token_ids": (0, 3),
    }
    return ModelConfig(**fields | overrides)


def load(folder: Path, **overrides: Any) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(folder, make_config(**overrides))
    assert tokenizer is not None
    return tokenizer


def panicking_tokenizer(config: ModelConfig) -> Tokenizer:
    """The embedded tokenizer, whose library panics at texts of many a's."""
    tokenizer = Tokenizer.from_folder(EMBEDDED, config)
    assert tokenizer is not None
    tokenizer._safe.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+b"), "isolated")
    return tokenizer


def load_reference(folder: Path) -> PreTrainedTokenizerFast:
    """The same tokenizer as transformers loads it."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


def byte_level_backend(*added: AddedToken) -> Backend:
    """One token for each byte, after `<|end|>` 0, `<|mask|>` 1 and `<|start|>` 2; then the added tokens."""
    tokens = ["<|end|>", "<|mask|>", "<|start|>", *ALPHABET]
    backend = Backend(models.BPE({token: index for index, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>", "<|start|>"])
    backend.add_tokens(list(added))
    return backend


def save(folder: Path, backend: Backend | None = None, **settings: Any) -> Path:
    """Write tokenizer.json, and tokenizer_config.json with the settings that are not None."""
    if backend is None:
        backend = byte_level_backend(AddedToken("<|mask|>", special=True))
    backend.save(str(folder / "tokenizer.json"))
    kept = {"bos_token": "<|start|>", **settings}
    written = {name: value for name, value in kept.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(written))
    return folder
