"""Train the tokenizer: byte-level BPE, one token a digit, newlines apart, so that columns of worked answers line up.

python -m training.tokenizer --corpus DIR --out DIR
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from surelock.measure.tasks import make_problem
from training.documents import read_documents
from training.problems import TASK_WEIGHTS

VOCAB_SIZE: Final = 4096
SPECIAL_TOKENS: Final = (
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|startoftext|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    *(f"<|reserved_special_token_{index}|>" for index in range(6)),
)
# LLaDA-8B-Instruct's turns: header, blank line, content, end of turn.
CHAT_TEMPLATE: Final = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
# Problems the merges are learned from, beside the text: about a tenth of it.
NUM_PROBLEMS: Final = 60_000


def train(texts: Iterator[str]) -> Tokenizer:
    """A tokenizer of VOCAB_SIZE tokens, the special ones first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def sample_texts(corpus: Path) -> Iterator[str]:
    """The training documents and some problems with their answers."""
    for document in read_documents(corpus, "train"):
        yield document.text
    rng = random.Random(0)
    tasks, weights = list(TASK_WEIGHTS), list(TASK_WEIGHTS.values())
    for _ in range(NUM_PROBLEMS):
        problem = make_problem(rng, rng.choices(tasks, weights)[0], rng.randint(1, 3), "train")
        yield f"{problem.question}\n\n{problem.answer}"


def tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mdm_mask|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "add_bos_token": False,
        "add_eos_token": False,
        "chat_template": CHAT_TEMPLATE,
        "added_tokens_decoder": {
            str(index): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for index, token in enumerate(SPECIAL_TOKENS)
        },
    }


def main() -> None:
    """Train on a corpus folder and write tokenizer.json and its companions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(sample_texts(arguments.corpus)).save(str(arguments.out / "tokenizer.json"))
    (arguments.out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(), indent=2) + "\n")
    special = {name: tokenizer_config()[name] for name in ("bos_token", "eos_token", "pad_token", "mask_token")}
    (arguments.out / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


if __name__ == "__main__":
    main()
