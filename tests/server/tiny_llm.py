"""The embedded model's tokenizer over a transformer so small that a step takes about a millisecond."""

from __future__ import annotations

from copy import copy

from surelock import LLM
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
