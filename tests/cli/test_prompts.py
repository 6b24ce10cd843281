from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surelock.cli.prompts import checked_text, decode_utf8, read_prompts
from surelock.errors import PromptError


def test_text_file_has_one_prompt_per_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffone\r\n\n  two \n\u2028three\x0c\n".encode())
    assert read_prompts([], file) == ["one", "  two ", "\u2028three\x0c"]


def test_jsonl_takes_the_three_forms(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "a\\nb\u2028"}\n\n{"prompt_token_ids": [1, 2]}\n{"canvas_token_ids": [1, null]}', encoding="utf-8"
    )
    assert read_prompts([], file) == ["a\nb\u2028", {"prompt_token_ids": [1, 2]}, {"canvas_token_ids": [1, None]}]


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("plain text", "line 2 is not JSON"),
        ('["a"]', "must be an object with one key"),
        ("{}", "must be an object with one key"),
        ('{"text": "a"}', 'must be an object with one key: {"prompt"'),
        ('{"prompt": "a", "canvas_token_ids": []}', "must be an object with one key"),
        ('{"prompt": 1}', "prompt must be a string"),
        ('{"prompt_token_ids": "1"}', "must be a list of token ids"),
        ('{"prompt_token_ids": [1, true]}', "must be a list of token ids"),
        ('{"prompt_token_ids": [1, null]}', "must be a list of token ids"),
        ('{"canvas_token_ids": [1, 2.0]}', "null where masked"),
        ('{"prompt": "\\ud800"}', "line 2 is not JSON"),
    ],
)
def test_bad_jsonl_lines_are_named(tmp_path: Path, line: str, fragment: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line, encoding="utf-8")
    with pytest.raises(PromptError) as caught:
        read_prompts([], file)
    assert fragment in str(caught.value)
    assert "line 2" in str(caught.value)


def test_undecodable_file(tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(PromptError, match=r"latin.txt is not UTF-8: byte 0xe9 at offset 3"):
        read_prompts([], file)


@pytest.mark.parametrize(
    ("texts", "name", "fragment"),
    [
        ([], None, "no prompt: give TEXT"),
        (["-", "-"], None, "given twice"),
        (["\udcff"], None, "not UTF-8"),
        (["a"], "some.txt", "both TEXT and --file"),
        ([], "missing.txt", "missing.txt does not exist"),
        ([], ".", "cannot be read: Is a directory"),
        ([], "empty.txt", "empty.txt holds no prompt"),
    ],
)
def test_bad_sources(tmp_path: Path, texts: list[str], name: str | None, fragment: str) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n")
    with pytest.raises(PromptError) as caught:
        read_prompts(texts, tmp_path / name if name else None)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_closed_standard_input_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(PromptError, match="standard input is empty"):
        read_prompts(["-"], None)


@given(st.text())
def test_any_unicode_text_passes_unchanged(text: str) -> None:
    assert decode_utf8(text.encode(), "x") == text.removeprefix("\ufeff")
    assert checked_text(text, "x") == text
