"""`surelock.text.tokenizer`: text never becomes control, and everything else round-trips."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from surelock.errors import PromptError, TokenizerError
from surelock.text.tokenizer import Tokenizer
from tests.tokenizer_folders import (
    ALPHABET,
    EMBEDDED,
    END,
    MASK,
    NUM_EMBEDDED_IDS,
    NUM_SPECIAL,
    START,
    byte_level_backend,
    hostile_texts,
    innocent_texts,
    load,
    load_reference,
    make_config,
    panicking_tokenizer,
    save,
)

NASTY = [
    "a\x00b\x1b[2J",
    "\ufeffBOM",
    "שלום \u202eevil\u202c \u200d",
    "e" + "\u0301" * 500,
    "👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "\r\n \t  \n\n\n",
    "\uffff\U0010ffff",
    " leading and trailing ",
]


@pytest.fixture(scope="module")
def embedded() -> Tokenizer:
    return load(EMBEDDED)


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerFast:
    return load_reference(EMBEDDED)


def test_import_is_light() -> None:
    names = "surelock.text.tokenizer, surelock.text.prompts"
    program = f"import sys, {names}; sys.exit(bool({{'torch', 'transformers'}} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class TestEncode:
    @given(text=hostile_texts)
    def test_text_is_lossless_and_never_control(self, embedded: Tokenizer, text: str) -> None:
        ids = embedded.encode(text)
        assert all(NUM_SPECIAL <= token_id < NUM_EMBEDDED_IDS for token_id in ids)
        assert embedded.decode(ids) == text

    @pytest.mark.parametrize("text", NASTY)
    def test_nasty_text_round_trips(self, embedded: Tokenizer, text: str) -> None:
        assert embedded.decode(embedded.encode(text)) == text

    @given(text=innocent_texts)
    def test_innocent_text_has_the_official_ids(
        self, embedded: Tokenizer, reference: PreTrainedTokenizerFast, text: str
    ) -> None:
        assert embedded.encode(text) == reference.encode(text, add_special_tokens=False)

    def test_empty_text_is_no_ids(self, embedded: Tokenizer) -> None:
        assert embedded.encode("") == []

    @pytest.mark.parametrize(("add_bos_token", "expected"), [(True, [START]), (False, []), (None, []), ("yes", [])])
    def test_bos_only_if_the_folder_says_so(self, tmp_path: Path, add_bos_token: object, expected: list[int]) -> None:
        tokenizer = load(save(tmp_path, add_bos_token=add_bos_token))
        body = tokenizer.encode("a", bos=False)
        assert tokenizer.encode("a") == expected + body
        assert tokenizer.decode(tokenizer.encode("a")) == "a"

    def test_post_processor_is_not_applied(self, tmp_path: Path) -> None:
        from tokenizers.processors import TemplateProcessing

        backend = byte_level_backend()
        backend.post_processor = TemplateProcessing(
            single="<|start|> $A <|end|>", special_tokens=[("<|start|>", START), ("<|end|>", END)]
        )
        backend.enable_truncation(1)
        backend.enable_padding(length=7, pad_id=END, pad_token="<|end|>")
        tokenizer = load(save(tmp_path, backend))
        assert tokenizer.decode(tokenizer.encode("abc")) == "abc"
        assert len(tokenizer.encode("abc")) == 3

    def test_mask_that_is_added_but_not_special(self, tmp_path: Path) -> None:
        backend = byte_level_backend(AddedToken("<|mask|>", special=False))
        assert backend.encode("<|mask|>").ids == [MASK]
        tokenizer = load(save(tmp_path, backend))
        ids = tokenizer.encode("a<|mask|>b")
        assert MASK not in ids
        assert tokenizer.decode(ids) == "a<|mask|>b"

    def test_ordinary_added_tokens_keep_their_ids(self, tmp_path: Path) -> None:
        # Ids are given in order, so a tokenizer that dropped the special one would shift the spaces.
        added = [AddedToken("<|new|>", special=True), AddedToken("    ", normalized=False)]
        backend = byte_level_backend(*added)
        tokenizer = load(save(tmp_path, backend))
        ids = tokenizer.encode("    x<|new|>")
        assert ids[0] == backend.token_to_id("    ") == backend.get_vocab_size() - 1
        assert backend.token_to_id("<|new|>") not in ids
        assert tokenizer.decode(ids) == "    x<|new|>"

    def test_special_token_named_only_in_the_config(self, tmp_path: Path) -> None:
        tokenizer = load(save(tmp_path, sep_token="<|sep|>", additional_special_tokens=["<|more|>"]))
        ids = tokenizer.encode("<|sep|><|more|>")
        assert max(ids) < 3 + len(ALPHABET)
        assert tokenizer.decode(ids) == "<|sep|><|more|>"

    @pytest.mark.parametrize(("control", "token_id"), [("mask", MASK), ("end", END)])
    def test_control_token_in_reach_of_ordinary_words_is_refused(
        self, tmp_path: Path, control: str, token_id: int
    ) -> None:
        backend = Backend(models.WordLevel({"end": END, "mask": MASK, "word": START}, unk_token="word"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = load(save(tmp_path, backend, bos_token=None), eos_token_ids=(END,))
        assert tokenizer.encode("word word") == [START, START]
        with pytest.raises(PromptError, match=rf"without '{control}' \(id {token_id}\)"):
            tokenizer.encode(f"word {control}")

    def test_id_beyond_the_model_is_refused(self, tmp_path: Path) -> None:
        tokenizer = load(save(tmp_path, byte_level_backend(AddedToken("€€"))), vocab_size=3 + len(ALPHABET))
        with pytest.raises(PromptError, match=r"without '€€' \(id 259\)"):
            tokenizer.encode("€€")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("ab\ud800", r"lone surrogate, '\\ud800', at character 2"),
            (b"bytes", r"the text is b'bytes'; it must be a string"),
            (None, r"the text is None; it must be a string"),
            (
                "a" * (64 * 512 + 1),
                r"has 32769 characters; the limit is 32768, 64 for each of the model's 512 positions",
            ),
            ("a" * 10_000_000, r"has 10000000 characters"),
        ],
        ids=["surrogate", "bytes", "None", "one too many", "10 MB"],
    )
    def test_bad_text(self, embedded: Tokenizer, text: Any, message: str) -> None:
        with pytest.raises(PromptError, match=message) as caught:
            embedded.encode(text)
        assert "\n" not in str(caught.value)

    def test_a_panic_of_the_library_is_the_error_of_that_text(self) -> None:
        tokenizer = panicking_tokenizer(make_config())
        ids = tokenizer.encode("Once")
        for _ in range(2):
            with pytest.raises(TokenizerError, match=r"a text cannot be encoded: PanicException: ") as caught:
                tokenizer.encode("a" * 40)
            assert "\n" not in str(caught.value)
            assert tokenizer.encode("Once") == ids

    def test_longest_word_is_quick(self, embedded: Tokenizer) -> None:
        assert embedded.decode(embedded.encode("a" * 64 * 512)) == "a" * 64 * 512


class TestDecode:
    def test_control_and_unknown_ids_decode_to_nothing(self, embedded: Tokenizer) -> None:
        ids = embedded.encode("hello")
        assert embedded.decode([2, 4, *ids, MASK, 3, 0, 11, 4096, 10**12, -1]) == "hello"

    def test_no_clean_up_of_spaces(self, embedded: Tokenizer) -> None:
        assert embedded.decode(embedded.encode("do n't , he said .")) == "do n't , he said ."

    @given(ids=st.lists(st.integers(-5, 5000)))
    def test_any_ids_decode(self, embedded: Tokenizer, ids: list[int]) -> None:
        embedded.decode(ids).encode()
        assert len(embedded.decode_visible(ids)) == len(ids)

    def test_visible_canvas(self, embedded: Tokenizer) -> None:
        hello = embedded.encode("hello world\n")
        shown = embedded.decode_visible([2, *hello, None, MASK, 3, 4096])
        assert shown[0] == "<|startoftext|>"
        assert "".join(shown[1:-4]) == "hello world\n"
        assert shown[-4:] == ["░", "░", "<|eot_id|>", ""]
        assert embedded.decode_visible([None, None], "_") == ["_", "_"]

    def test_visible_bytes_and_control_characters(self, embedded: Tokenizer) -> None:
        assert set(embedded.decode_visible(embedded.encode("\U0010ffff"))) == {"\N{REPLACEMENT CHARACTER}"}
        assert "".join(embedded.decode_visible(embedded.encode("\x1b[2J\x07\t\x7f"))) == "␛[2J␇\t␡"

    def test_visible_keeps_the_space_of_a_word(self, tmp_path: Path) -> None:
        backend = Backend(models.WordLevel({"<e>": 0, "<m>": 1, "▁a": 2, "▁b": 3}, unk_token="<e>"))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        tokenizer = load(save(tmp_path, backend, bos_token=None), eos_token_ids=(0,))
        ids = tokenizer.encode("a b")
        assert tokenizer.decode_visible(ids) == [" a", " b"]
