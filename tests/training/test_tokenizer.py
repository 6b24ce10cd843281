"""The tokenizer, and the turns training and decoding must spell alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from surelock import LLM
from surelock.models.hub import EMBEDDED_FOLDER
from training.plot import draw
from training.prepare import load_group
from training.problems import chat_turns, encode_turn
from training.tokenizer import SPECIAL_TOKENS, tokenizer_config, train


def test_special_tokens_come_first_and_digits_stand_alone() -> None:
    tokenizer = train(iter(["one 1234 two\nthree one two three"] * 30))
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert len(tokenizer.encode("1234").ids) == 4
    text = "one\ntwo 56"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_embedded_model_has_this_tokenizers_template() -> None:
    assert json.loads((EMBEDDED_FOLDER / "tokenizer_config.json").read_text()) == tokenizer_config()


def test_a_turn_is_what_chat_sends(tokenizer_file: Path) -> None:
    question = "Add 12 and 34. Show the columns."
    example = encode_turn(Tokenizer.from_file(str(tokenizer_file)), "add", question, "46")
    assert example.prompt.tolist() == LLM().encode_chat([{"role": "user", "content": question}])
    assert example.answer[-1] == 3


def test_replies_are_taken_from_the_other_speaker() -> None:
    assert chat_turns("A: hi\nB: hello\nB: you there?\nA: yes") == [("hi", "hello"), ("you there?", "yes")]


def test_prepared_documents_are_whole(data: Path, tokenizer_file: Path) -> None:
    group = load_group(data, "prose", "train")
    assert group.starts[0] == 0
    assert group.starts[-1] == group.tokens.size
    text = Tokenizer.from_file(str(tokenizer_file)).decode(group.tokens[group.starts[1] :].astype(np.int64).tolist())
    assert text == "A: another one\nB: quite\n" * 12


def test_a_log_is_drawn() -> None:
    lines = [{"step": s, "batch_tokens": 10, "rate": 1.0, "loss": {"text": 2.0 / s, "add": 1.0 / s}} for s in (1, 2, 3)]
    losses, rates = draw(lines).axes
    assert {line.get_label() for line in losses.lines} == {"text", "add"}
    assert "tokens" in rates.get_xlabel()
