"""Prompts to measure on come from the package or a file, and fit the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from surelock.errors import PromptError, TokenizerError
from surelock.llm import LLM
from surelock.measure.prompt_sets import check_room, task_canvases, text_canvases
from tests.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu")


def test_text_is_cut_to_tokens_of_the_model(llm: LLM, tmp_path: Path) -> None:
    canvases = text_canvases(llm, 5, num_prompt_tokens=12)
    assert [len(ids) for ids in canvases] == [12] * 5
    assert len(set(map(tuple, canvases))) == 5
    own = tmp_path / "own.txt"
    own.write_text("One line of text that is long enough to be cut.\nAnother one, as long as the first at least.\n")
    assert [len(ids) for ids in text_canvases(llm, 5, num_prompt_tokens=4, path=own)] == [4, 4]


def test_tasks_take_turns_and_none_comes_twice(llm: LLM) -> None:
    canvases = task_canvases(llm, 40, seed=0)
    assert len({tuple(ids) for ids in canvases}) == 40
    assert canvases[:20] == task_canvases(llm, 20, seed=0)[:17] + canvases[17:20]


def test_room_for_the_answer_is_checked() -> None:
    check_room([[1] * 10, [1] * 20], 12, 32)
    with pytest.raises(PromptError, match="20 positions and max_tokens is 13"):
        check_room([[1] * 10, [1] * 20], 13, 32)


def test_a_model_without_a_tokenizer_takes_no_text(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "bare")
    with pytest.raises(TokenizerError, match="no tokenizer"):
        text_canvases(LLM(tmp_path / "bare", device="cpu"), 1, num_prompt_tokens=4)
