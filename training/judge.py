"""Train the judge: a small causal language model on the same text, for the perplexity of generated text.

    python -m training.judge --data DIR --tokenizer DIR/tokenizer.json --out DIR [--epochs 4,6,8]

The text is small and a causal model overfits it within a few passes, so several numbers of passes are trained from
scratch, each with its own fall of the rate, and the best on the validation text is kept. Written as a Hugging Face
LlamaForCausalLM folder.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from training.documents import GROUP_WEIGHTS
from training.model import half_precision
from training.prepare import load_group
from training.problems import EOS
from training.schedule import rate

LENGTH: Final = 512
BATCH: Final = 128
TOP_RATE: Final = 2e-3
# Every document of the training text follows an end of text, so that is what a text begins with.
TOKENIZER_CONFIG: Final = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": LENGTH,
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<|endoftext|>",
}


def judge_config() -> LlamaConfig:
    """8.8 M parameters, tied head."""
    return LlamaConfig(
        vocab_size=4096,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=6,
        num_attention_heads=5,
        max_position_embeddings=LENGTH,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )


def joined(data: Path, split: str, device: torch.device) -> Tensor:
    """All documents of a split, each after an end-of-text token: [T] int64."""
    pieces: list[np.ndarray] = []
    for group in GROUP_WEIGHTS:
        arrays = load_group(data, group, split)
        for begin, end in zip(arrays.starts, arrays.starts[1:], strict=False):
            pieces += [np.array([EOS], np.uint16), arrays.tokens[begin:end]]
    return torch.from_numpy(np.concatenate(pieces).astype(np.int64)).to(device)


def train(tokens: Tensor, epochs: float, seed: int = 0) -> LlamaForCausalLM:
    """A judge that saw `tokens` about `epochs` times."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(judge_config())
    torch.nn.Module.to(model, tokens.device)
    forward = torch.compile(model) if tokens.is_cuda else model
    optimizer = torch.optim.AdamW(model.parameters(), TOP_RATE, (0.9, 0.95), weight_decay=0.1)
    num_steps = max(1, round(epochs * tokens.numel() / (BATCH * LENGTH)))
    offsets = torch.arange(LENGTH, device=tokens.device)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = TOP_RATE * rate((step + 1) / num_steps)
        starts = torch.randint(tokens.numel() - LENGTH, (BATCH, 1), device=tokens.device)
        with half_precision(tokens.device):
            loss = forward(input_ids=(windows := tokens[starts + offsets]), labels=windows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model


@torch.no_grad()
def round_weights(model: LlamaForCausalLM) -> None:
    """Make the weights what is saved, bfloat16; scoring computes in float32, and buffers stay as they are."""
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, tokens: Tensor) -> float:
    """Over consecutive windows of LENGTH tokens."""
    windows = tokens[: tokens.numel() // LENGTH * LENGTH].view(-1, LENGTH)
    losses = [float(model(input_ids=part, labels=part).loss) * len(part) for part in torch.split(windows, BATCH)]
    return math.exp(sum(losses) / len(windows))


def main() -> None:
    """Train one judge for each number of passes; keep the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", default="4,6,8")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text, held_out = joined(arguments.data, "train", device), joined(arguments.data, "val", device)
    runs, best = [], math.inf
    for epochs in map(float, arguments.epochs.split(",")):
        begin = time.perf_counter()
        model = train(text, epochs)
        round_weights(model)
        found = perplexity(model, held_out)
        runs.append({"epochs": epochs, "perplexity": round(found, 3), "seconds": round(time.perf_counter() - begin, 1)})
        print(runs[-1], flush=True)
        if found < best:
            best = found
            model.bfloat16().save_pretrained(arguments.out)
    shutil.copyfile(arguments.tokenizer, arguments.out / "tokenizer.json")
    (arguments.out / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=1) + "\n")
    facts = {"tokens": text.numel(), "validation_tokens": held_out.numel(), "runs": runs}
    (arguments.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
