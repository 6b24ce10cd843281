"""The judge's trainer: what it reports is of what it writes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from training import judge


def test_the_perplexity_reported_is_that_of_the_saved_weights(
    data: Path, tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights so large that rounding them is seen.
    tiny = LlamaConfig(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        initializer_range=1.0,
        tie_word_embeddings=True,
    )
    monkeypatch.setattr(judge, "judge_config", lambda: tiny)
    monkeypatch.setattr(judge, "LENGTH", 16)
    monkeypatch.setattr(judge, "BATCH", 4)
    given, scored = judge.perplexity, []

    def perplexity(model: LlamaForCausalLM, tokens: torch.Tensor) -> float:
        scored.append((given(model, tokens), tokens))
        return scored[-1][0]

    monkeypatch.setattr(judge, "perplexity", perplexity)
    out = tmp_path / "judge"
    tokenizer = tmp_path / "tokenizer.json"
    shutil.copyfile(tokenizer_file, tokenizer)
    arguments = ["judge", "--data", str(data), "--tokenizer", str(tokenizer), "--out", str(out), "--epochs", "0.01"]
    monkeypatch.setattr(sys, "argv", arguments)
    judge.main()
    ((told, tokens),) = scored
    saved = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert told == given(saved, tokens)
    assert json.loads((out / "training.json").read_text())["runs"][0]["perplexity"] == round(told, 3)
    assert LlamaForCausalLM.from_pretrained(out, dtype="auto").dtype == torch.bfloat16
