"""`surelock.text.prompts`: whatever users pass is checked before any work, and becomes a canvas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import surelock
from surelock.errors import ParameterError, PromptError, TokenizerError
from surelock.models.config import ModelConfig
from surelock.params import SamplingParams
from surelock.text.prompts import Prompt, encode_prompt, encode_segments, normalise_prompts
from surelock.text.tokenizer import Tokenizer

MASK = 1
CONFIG = ModelConfig(
    family="llada",
    vocab_size=4096,
    embedding_size=4096,
    hidden_size=384,
    intermediate_size=1024,
    num_layers=8,
    num_heads=6,
    num_kv_heads=6,
    head_dim=64,
    max_sequence_length=512,
    norm_eps=1e-5,
    rope_theta=10000.0,
    mask_token_id=MASK,
    eos_token_ids=(0, 3),
)
ids = st.integers(0, CONFIG.vocab_size - 1).filter(lambda token_id: token_id != MASK)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    loaded = Tokenizer.from_folder(Path(surelock.__file__).parent / "embedded", CONFIG)
    assert loaded is not None
    return loaded


def encode(prompt: Any, tokenizer: Tokenizer | None = None, max_tokens: int = 128) -> tuple[int | None, ...]:
    return encode_prompt(prompt, tokenizer=tokenizer, config=CONFIG, params=SamplingParams(max_tokens=max_tokens))


class TestNormalise:
    @pytest.mark.parametrize("prompt", ["", "hello", {"prompt_token_ids": [5]}, {}])
    def test_one_prompt_is_a_list_of_one(self, prompt: Prompt) -> None:
        assert normalise_prompts(prompt) == [prompt]
        assert normalise_prompts((prompt,)) == [prompt]

    def test_order_is_kept_and_the_list_copied(self) -> None:
        prompts: list[Prompt] = ["b", {"canvas_token_ids": [None]}, "a"]
        normalised = normalise_prompts(prompts)
        assert normalised == prompts
        assert normalised is not prompts

    @pytest.mark.parametrize(
        ("prompts", "message"),
        [
            ([], "the list of prompts is empty"),
            ((), "the list of prompts is empty"),
            (None, "prompts is None; a prompt is a string,"),
            (7, "prompts is 7"),
            (b"bytes", "prompts is b'bytes'"),
            (iter(["a"]), "prompts is <list_iter"),
            ([5, 6], r"prompts\[0\] is 5; a prompt given as token ids is \{'prompt_token_ids': \[5, ...\]\}"),
            (["a", None], r"prompts\[1\] is None"),
            (["a", b"b"], r"prompts\[1\] is b'b'"),
            ([["a"]], r"prompts\[0\] is \['a'\]"),
            ([1.5], r"prompts\[0\] is 1.5"),
            (np.zeros((40, 40)), "prompts is array"),
        ],
    )
    def test_bad_prompts(self, prompts: object, message: str) -> None:
        with pytest.raises(PromptError, match=message) as caught:
            normalise_prompts(prompts)
        assert "\n" not in str(caught.value)


class TestPrompt:
    def test_text(self, tokenizer: Tokenizer) -> None:
        assert encode("hello world", tokenizer) == tuple(tokenizer.encode("hello world"))

    def test_empty_prompts_leave_an_empty_canvas_to_denoise(self, tokenizer: Tokenizer) -> None:
        assert encode("", tokenizer) == encode({"prompt_token_ids": []}) == encode({"canvas_token_ids": []}) == ()

    @given(canvas=st.lists(ids | st.none(), max_size=20))
    def test_canvas_is_kept(self, canvas: list[int | None]) -> None:
        assert encode({"canvas_token_ids": canvas}) == encode({"canvas_token_ids": tuple(canvas)}) == tuple(canvas)

    @given(prompt=st.lists(ids, max_size=20))
    def test_token_ids_are_kept(self, prompt: list[int]) -> None:
        assert encode({"prompt_token_ids": prompt}) == tuple(prompt)

    def test_numpy_integers_become_python_ones(self) -> None:
        (kept,) = encode({"prompt_token_ids": [np.int64(7)]})
        assert type(kept) is int

    def test_gaps_alone_are_enough(self) -> None:
        assert encode({"canvas_token_ids": [5, None]}, max_tokens=0) == (5, None)

    def test_the_whole_context_can_be_used(self) -> None:
        assert len(encode({"prompt_token_ids": [5] * 384}, max_tokens=128)) == 384
        assert encode({"prompt_token_ids": []}, max_tokens=512) == ()
        assert len(encode({"canvas_token_ids": [None] * 512}, max_tokens=0)) == 512

    @pytest.mark.parametrize("prompt", [{"prompt_token_ids": [5]}, {"canvas_token_ids": [5]}, {"canvas_token_ids": []}])
    def test_nothing_to_denoise(self, prompt: Prompt) -> None:
        with pytest.raises(ParameterError, match="max_tokens is 0 and the prompt has no position to denoise"):
            encode(prompt, max_tokens=0)

    def test_text_with_nothing_to_denoise(self, tokenizer: Tokenizer) -> None:
        with pytest.raises(ParameterError, match="max_tokens is 0"):
            encode("hello", tokenizer, max_tokens=0)

    def test_text_without_a_tokenizer(self) -> None:
        with pytest.raises(TokenizerError, match=r"no tokenizer, so it takes no text; pass \{'prompt_token_ids'"):
            encode("hello")

    @pytest.mark.parametrize(
        ("prompt", "max_tokens", "message"),
        [
            (
                {"prompt_token_ids": [5] * 400},
                128,
                "the prompt has 400 positions and max_tokens is 128, together 528; the model's limit is 512: "
                "lower max_tokens to at most 112, or shorten the prompt",
            ),
            ({"prompt_token_ids": [5] * 512}, 1, "together 513; the model's limit is 512: shorten the prompt"),
            ({"prompt_token_ids": [5] * 513}, 1, "prompt_token_ids has 513 positions; the model's limit is 512"),
            ({"canvas_token_ids": [None] * 10**6}, 0, "canvas_token_ids has 1000000 positions"),
            (
                "",
                513,
                "the prompt has 0 positions and max_tokens is 513, together 513; .* lower max_tokens to at most 512",
            ),
            ("a\n" * 300, 128, "the prompt has 600 positions and max_tokens is 128, together 728"),
            ("a" * 10_000_000, 128, "the text has 10000000 characters; the limit is 32768"),
        ],
    )
    def test_too_long(self, tokenizer: Tokenizer, prompt: Prompt, max_tokens: int, message: str) -> None:
        with pytest.raises(PromptError, match=message) as caught:
            encode(prompt, tokenizer, max_tokens)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            (None, "the prompt is None; it must be a string,"),
            (b"bytes", "the prompt is b'bytes'"),
            ({}, r"the prompt has the keys \[\]; it must have exactly one, 'prompt_token_ids' or 'canvas_token_ids'"),
            ({"prompt": "hello"}, r"the prompt has the keys \['prompt'\]"),
            ({"prompt_token_ids": [5], "canvas_token_ids": [5]}, "it must have exactly one"),
            ({"prompt_token_ids": "5"}, "prompt_token_ids is '5'; it must be a list of integers"),
            ({"prompt_token_ids": None}, "prompt_token_ids is None"),
            ({"prompt_token_ids": np.array([5])}, r"prompt_token_ids is array\(\[5\]\); .*tolist"),
            ({"prompt_token_ids": torch.tensor([5])}, r"prompt_token_ids is tensor\(\[5\]\); .*tolist"),
            (
                {"prompt_token_ids": [5, torch.tensor(5)]},
                r"prompt_token_ids\[1\] is tensor\(5\); it must be an integer",
            ),
            ({"prompt_token_ids": [5, True]}, r"prompt_token_ids\[1\] is True; it must be an integer"),
            ({"prompt_token_ids": [np.True_]}, r"prompt_token_ids\[0\] is np.True_; it must be an integer"),
            ({"prompt_token_ids": [5.0]}, r"prompt_token_ids\[0\] is 5.0; it must be an integer"),
            ({"prompt_token_ids": [5, None]}, r"prompt_token_ids\[1\] is None; .*belongs into canvas_token_ids"),
            ({"canvas_token_ids": [None, "a"]}, r"canvas_token_ids\[1\] is 'a'; it must be an integer or None"),
            ({"prompt_token_ids": [5, -1]}, r"prompt_token_ids\[1\] is -1; the model's ids are 0 to 4095"),
            ({"prompt_token_ids": [4096]}, r"prompt_token_ids\[0\] is 4096; the model's ids are 0 to 4095"),
            ({"canvas_token_ids": [10**5000]}, r"canvas_token_ids\[0\] is an integer of 16610 bits; the model's ids"),
            (
                {"prompt_token_ids": [5, 1]},
                r"prompt_token_ids\[1\] is 1, the id of \[MASK\].* pass None there, in canvas",
            ),
            ({"canvas_token_ids": [MASK]}, r"canvas_token_ids\[0\] is 1, the id of \[MASK\]"),
        ],
    )
    def test_bad_prompt(self, prompt: Any, message: str) -> None:
        with pytest.raises(PromptError, match=message) as caught:
            encode(prompt)
        assert "\n" not in str(caught.value)


class TestSegments:
    def test_text_around_a_gap(self, tokenizer: Tokenizer) -> None:
        segments: list[Any] = ["Dear ", 3, ",\n", np.int64(1)]
        canvas = encode_segments(segments, tokenizer=tokenizer, config=CONFIG)
        assert canvas == (*tokenizer.encode("Dear "), None, None, None, *tokenizer.encode(",\n"), None)

    def test_gaps_need_no_tokenizer(self) -> None:
        assert encode_segments((2, 510), tokenizer=None, config=CONFIG) == (None,) * 512

    @given(
        segments=st.lists(st.text("ab<|mdm_ask|>\n") | st.integers(1, 5), max_size=8).filter(
            lambda segments: any(isinstance(segment, int) for segment in segments)
        )
    )
    def test_mask_only_as_gaps(self, tokenizer: Tokenizer, segments: list[str | int]) -> None:
        canvas = encode_segments(segments, tokenizer=tokenizer, config=CONFIG)
        assert canvas.count(None) == sum(segment for segment in segments if isinstance(segment, int))
        given_text = "".join(segment for segment in segments if isinstance(segment, str))
        assert tokenizer.decode([token_id for token_id in canvas if token_id is not None]) == given_text

    @pytest.mark.parametrize(
        ("segments", "message"),
        [
            ("text", "segments is 'text'; it must be a list of strings and of gap lengths"),
            (None, "segments is None"),
            ([], "segments has no gap"),
            (["text"], "segments has no gap"),
            (["text", 0], r"segments\[1\] is 0; it must be a string, or a gap's length of 1 or more"),
            ([True], r"segments\[0\] is True"),
            ([2.0], r"segments\[0\] is 2.0"),
            ([None], r"segments\[0\] is None"),
            ([513], "the gaps take 513 in all; the model's limit is 512"),
            ([10**5000], "the gaps take an integer of 16610 bits in all"),
            (["a\n" * 100, 400], r"segments\[0\] to segments\[1\] have 600 positions, 400 of them in gaps"),
            (["\ud800", 1], "lone surrogate"),
            (["a" * 10_000_000, 1], "has 10000000 characters"),
        ],
    )
    def test_bad_segments(self, tokenizer: Tokenizer, segments: Any, message: str) -> None:
        with pytest.raises(PromptError, match=message) as caught:
            encode_segments(segments, tokenizer=tokenizer, config=CONFIG)
        assert "\n" not in str(caught.value)

    def test_text_without_a_tokenizer(self) -> None:
        with pytest.raises(TokenizerError, match="no tokenizer"):
            encode_segments(["text", 1], tokenizer=None, config=CONFIG)
