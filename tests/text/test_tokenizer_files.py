"""`surelock.text.tokenizer_files`, through the tokenizer: what loads, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from surelock.errors import TokenizerError
from surelock.text.tokenizer import Tokenizer
from tests.tokenizer_folders import EMBEDDED, END, START, load, make_config, save

TOKEN = {"content": "<|end|>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
MARKED = {**TOKEN, "__type": "AddedToken"}


class TestFromFolder:
    def test_embedded(self) -> None:
        embedded = load(EMBEDDED)
        assert embedded.mask_token_id == 1
        assert embedded.end_ids == {0, 3}
        assert embedded.has_chat_template

    def test_no_tokenizer_files(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        assert Tokenizer.from_folder(tmp_path, make_config()) is None

    def test_tokenizer_json_alone_is_enough(self, tmp_path: Path) -> None:
        (save(tmp_path) / "tokenizer_config.json").unlink()
        tokenizer = load(tmp_path)
        assert tokenizer.decode(tokenizer.encode("<|end|>")) == "<|end|>"

    def test_code_of_the_folder_is_not_run(self, tmp_path: Path) -> None:
        marker = tmp_path / "marker"
        (tmp_path / "tokenization_evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: ...\n")
        auto_map = {"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]}
        tokenizer = load(save(tmp_path, auto_map=auto_map, tokenizer_class="Evil", trust_remote_code=True))
        assert tokenizer.decode(tokenizer.encode("safe")) == "safe"
        assert not marker.exists()

    @pytest.mark.parametrize("names", [["vocab.json", "merges.txt"], ["tokenizer.model"], ["tokenizer_config.json"]])
    def test_other_formats_are_named(self, tmp_path: Path, names: list[str]) -> None:
        for name in names:
            (tmp_path / name).write_text("{}")
        with pytest.raises(TokenizerError, match=rf"has {names[0]} but no tokenizer.json"):
            Tokenizer.from_folder(tmp_path, make_config())

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("tokenizer.json", b"", r"tokenizer.json is not valid JSON: "),
            ("tokenizer.json", b"{}", r"tokenizer.json: model has the type None; it must be one of BPE, "),
            ("tokenizer.json", b"\xff\xfe", r"tokenizer.json is not UTF-8 text"),
            ("tokenizer.json", b"[" * 100_000, r"tokenizer.json is nested too deeply"),
            (
                "tokenizer.json",
                b'{"model": {"type": "BPE", "vocab": {}}}',
                r"tokenizer.json does not make a tokenizer: ",
            ),
            ("tokenizer_config.json", b"", r"tokenizer_config.json is not valid JSON: "),
            ("tokenizer_config.json", b"[" * 100_000, r"tokenizer_config.json is nested too deeply"),
            ("tokenizer_config.json", b"[]", r"tokenizer_config.json holds a list of 0; it must be a JSON object"),
            ("tokenizer_config.json", b'{"bos_token": 7}', r"tokenizer_config.json does not make a tokenizer: "),
            ("tokenizer_config.json", b'{"added_tokens_decoder": [1]}', r"tokenizer_config.json does not make a "),
            ("tokenizer_config.json", b'{"chat_template": 7}', r"chat_template is 7; it must be a string"),
            ("special_tokens_map.json", b"[]", r"special_tokens_map.json holds a list of 0; it must be a JSON object"),
            ("special_tokens_map.json", b"{", r"special_tokens_map.json is not valid JSON: "),
            ("chat_template.jinja", b"\xff", r"chat_template.jinja cannot be read: UnicodeDecodeError"),
            ("chat_template.jinja", b"a" * ((1 << 20) + 1), r"chat_template.jinja has 1048577 bytes; the limit is"),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        (save(tmp_path) / name).write_bytes(content)
        with pytest.raises(TokenizerError, match=message) as caught:
            Tokenizer.from_folder(tmp_path, make_config())
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)

    @pytest.mark.parametrize("cut", [1, 100, 5000, 60_000])
    def test_torn_tokenizer_json(self, tmp_path: Path, cut: int) -> None:
        (tmp_path / "tokenizer.json").write_bytes((EMBEDDED / "tokenizer.json").read_bytes()[:cut])
        with pytest.raises(TokenizerError, match=r"tokenizer.json is not valid JSON"):
            Tokenizer.from_folder(tmp_path, make_config())


def write(folder: Path, files: dict[str, Any]) -> None:
    """Save a tokenizer, with keys of its JSON files replaced."""
    save(folder)
    for name, content in files.items():
        path = folder / name
        before = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(before | content))


class TestAddedTokens:
    """The tokenizers library prints the unknown keys of an added token, beside what a program writes on stdout."""

    @pytest.mark.parametrize(
        "files",
        [
            {"tokenizer_config.json": {"added_tokens_decoder": {"0": {**TOKEN, "special": True}}}},
            {"tokenizer_config.json": {"eos_token": MARKED, "extra_special_tokens": {"end_token": MARKED}}},
            {"special_tokens_map.json": {"eos_token": TOKEN, "extra_special_tokens": [TOKEN]}},
            {"special_tokens_map.json": {"eos_token": "<|end|>", "extra_special_tokens": {"end_token": MARKED}}},
        ],
    )
    def test_good_ones_load(self, tmp_path: Path, capfd: pytest.CaptureFixture[str], files: dict[str, Any]) -> None:
        write(tmp_path, files)
        assert END not in load(tmp_path).encode("<|end|>")
        assert capfd.readouterr() == ("", "")

    def test_begin_of_sequence(self, tmp_path: Path) -> None:
        settings = {"bos_token": {**MARKED, "content": "<|start|>"}, "add_bos_token": True}
        write(tmp_path, {"tokenizer_config.json": settings})
        assert load(tmp_path).encode("") == [START]

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("tokenizer_config.json", {"added_tokens_decoder": {"0": TOKEN, "1": {**TOKEN, "extra": 1}}}),
            ("tokenizer_config.json", {"eos_token": {**MARKED, "extra": 1}}),
            ("tokenizer_config.json", {"anything": [{"deep": {**MARKED, "extra": 1}}]}),
            ("tokenizer_config.json", {"extra_special_tokens": {"end_token": {**MARKED, "extra": 1}}}),
            ("special_tokens_map.json", {"eos_token": {**TOKEN, "extra": 1}}),
            ("special_tokens_map.json", {"extra_special_tokens": [{**TOKEN, "extra": 1}]}),
            ("special_tokens_map.json", {"extra_special_tokens": {"end_token": {**MARKED, "extra": 1}}}),
            ("tokenizer.json", {"added_tokens": [{**TOKEN, "special": True, "id": END, "extra": 1}]}),
        ],
    )
    def test_unknown_keys_are_refused_and_not_printed(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: dict[str, Any]
    ) -> None:
        write(tmp_path, {name: content})
        with pytest.raises(TokenizerError, match=r"the added token '<\|end\|>' has the key 'extra', which") as caught:
            Tokenizer.from_folder(tmp_path, make_config())
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer.json"])
    def test_places_that_are_not_read_are_not_refused(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
    ) -> None:
        token = {**TOKEN, "special": True, "extra": 1}
        content = {"eos_token": token} if name == "special_tokens_map.json" else {"added_tokens": [token | {"id": END}]}
        write(tmp_path, {name: content, "tokenizer_config.json": {"added_tokens_decoder": {"0": TOKEN}}})
        assert load(tmp_path).decode([END]) == ""
        assert capfd.readouterr() == ("", "")
