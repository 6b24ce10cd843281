"""Held-out text: the same prompts each time, cut where they should be, and files of one's own."""

from __future__ import annotations

import json
import lzma
import re
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from surelock import LLM
from surelock.errors import ParameterError, PromptError
from surelock.measure.text import InfillProblem, load_infill, load_text
from surelock.measure.text.documents import SPLITS, Passage, in_turns
from surelock.measure.text.infilling import MAX_WORDS, MIN_WORDS
from surelock.text.tokenizer import Tokenizer

DATA = SPLITS["test"].parent


@pytest.fixture(scope="module")
def tokenizer(embedded: LLM) -> Tokenizer:
    assert embedded.tokenizer is not None
    return embedded.tokenizer


@pytest.fixture(scope="module")
def documents() -> list[dict[str, str]]:
    return [orjson.loads(line) for line in lzma.decompress(SPLITS["test"].read_bytes()).splitlines()]


def test_the_data_names_every_source_and_licence(documents: list[dict[str, str]]) -> None:
    assert SPLITS["test"].stat().st_size < 1 << 20
    assert all(document.keys() == {"source", "licence", "id", "text"} for document in documents)
    readme, notices = (DATA / "README.md").read_text(), (DATA / "LICENCES.md").read_text()
    rows = [line.split(" | ") for line in readme.splitlines() if line.startswith("| `")]
    listed = Counter[tuple[str, str]]()
    for source, num, _, _, licence, _ in rows:
        listed[source.strip("| `"), licence] += int(num)
    assert listed == Counter((document["source"], document["licence"]) for document in documents)
    for licence in {licence for _, licence in listed} - {"public domain", "MIT or Apache-2.0", "Apache-2.0"}:
        assert f"\n## {licence}\n" in notices
    assert f"{sum(len(document['text']) for document in documents):,} characters" in readme
    assert f"{SPLITS['test'].stat().st_size:,} bytes packed" in readme


def passages(split: str = "test") -> list[Passage]:
    return list(in_turns(lambda passage: passage, split))


def test_passages_hold_the_documents_whole(documents: list[dict[str, str]]) -> None:
    found = passages()
    assert len({passage.key for passage in found}) == len(found)
    kept = sum(len("".join(passage.text.split())) for passage in found)
    assert kept == sum(len("".join(document["text"].split())) for document in documents)
    sources = {document["source"] for document in documents}
    assert {passage.source for passage in found[: len(sources)]} == sources
    with pytest.raises(ParameterError, match="split is 'train'; the package holds test"):
        passages("train")


def test_prompts_have_so_many_tokens_and_go_on(tokenizer: Tokenizer) -> None:
    prompts = load_text(tokenizer=tokenizer, num_prompts=30, num_prompt_tokens=20, num_continuation_tokens=100)
    assert len(prompts) == 30
    texts = [passage.text for passage in passages()]
    for prompt in prompts:
        assert len(prompt.token_ids) == 20
        assert tokenizer.decode(prompt.token_ids) == prompt.prompt
        assert prompt.prompt + prompt.continuation in texts
        assert len(tokenizer.encode(prompt.prompt + prompt.continuation)) >= 120
    assert (
        load_text(tokenizer=tokenizer, num_prompts=7, num_prompt_tokens=20, num_continuation_tokens=100) == prompts[:7]
    )


@pytest.mark.parametrize(("num_continuation_tokens", "num_documents"), [(256, 195), (0, 426)])
def test_every_document_gives_one_prompt_before_any_gives_a_second(
    tokenizer: Tokenizer, num_continuation_tokens: int, num_documents: int
) -> None:
    prompts = load_text(tokenizer=tokenizer, num_continuation_tokens=num_continuation_tokens)
    of_documents = [prompt.document for prompt in prompts]
    assert len(set(of_documents)) == len(set(of_documents[:num_documents])) == num_documents
    assert len(set(prompts)) == len(prompts) > num_documents
    # The second round too: nobody gives a third before all that can have given a second.
    places = [of_documents[:index].count(name) for index, name in enumerate(of_documents)]
    assert places == sorted(places)


def test_the_sources_take_turns_in_every_round() -> None:
    found = passages()
    first = found[: len({passage.document for passage in found})]
    for num in (1, 20, 100):
        counts = Counter(passage.source for passage in first[:num])
        totals = Counter(passage.source for passage in first)
        # As many of each source as of any other, unless it has no more.
        assert all(counts[source] >= min(totals[source], max(counts.values()) - 1) for source in totals)


def test_texts_longer_than_all_there_are_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match="no held-out text has 100064 tokens, 64 of the prompt and 100000 after it"):
        load_text(tokenizer=tokenizer, num_continuation_tokens=100_000)


def test_without_a_tokenizer_prompts_are_cut_at_a_space() -> None:
    for prompt in load_text(num_prompts=40):
        assert prompt.token_ids == ()
        assert 100 < len(prompt.prompt) <= 256
        assert prompt.continuation[0] == " "
        assert prompt.licence


def test_a_text_file_is_cut_line_by_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("Call me Ishmael. Some years ago, never mind how long\r\n\n  \nShort\n")
    first, second = load_text(path=path, tokenizer=tokenizer, num_prompt_tokens=4)
    assert len(first.token_ids) == 4
    assert first.prompt + first.continuation == "Call me Ishmael. Some years ago, never mind how long"
    assert (second.prompt, second.continuation, second.source) == ("Short", "", "prompts.txt")
    assert len(load_text(path=path, num_prompts=1)) == 1


def test_a_jsonl_file_may_give_texts_prompts_or_turns(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "own.jsonl"
    rows: list[dict[str, Any]] = [
        {"text": "one two three four five six seven eight"},
        {"prompt": "one two three four five six", "continuation": " seven", "other": 1},
        {"turns": ["Say hello.", "Again."], "question_id": 81, "category": "writing"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cut, whole, turn = load_text(path=path, tokenizer=tokenizer, num_prompt_tokens=3)
    assert len(cut.token_ids) == 3
    assert cut.prompt + cut.continuation == rows[0]["text"]
    assert (whole.prompt, whole.continuation) == ("one two three four five six", " seven")
    assert tokenizer.decode(whole.token_ids) == whole.prompt
    assert turn.prompt == "Say hello."


@pytest.mark.parametrize(
    ("name", "content", "fragment"),
    [
        ("a.txt", b"\n \n", "holds no prompt; write one per line"),
        ("a.txt", b"\xff\xfe", "not UTF-8: bad byte at offset 0"),
        ("a.jsonl", b"{", "line 1 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n[]', "line 2 must be an object of the form"),
        ("a.jsonl", b'{"text": "a", "prompt": "b"}', "line 1 must be an object"),
        ("a.jsonl", b'{"prompt": 5}', "line 1: prompt must be a string that is not empty"),
        ("a.jsonl", b'{"turns": [7]}', "line 1: prompt must be a string"),
        ("a.jsonl", b'{"text": " "}', "line 1: text must be a string that is not empty"),
        (None, b"", "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, name: str | None, content: bytes, fragment: str
) -> None:
    path = tmp_path / (name or "missing.txt")
    if name:
        path.write_bytes(content)
    with pytest.raises(PromptError, match=re.escape(fragment)) as caught:
        load_text(path=path)
    assert str(caught.value).startswith(str(path))


def test_gaps_are_words_inside_sentences_of_the_text(tokenizer: Tokenizer) -> None:
    problems = load_infill(num_problems=200)
    assert len(problems) == 200
    texts = [passage.text for passage in passages()]
    for problem in problems:
        assert MIN_WORDS <= len(problem.answer.split()) <= MAX_WORDS
        assert problem.answer[0].isspace()
        assert not problem.answer[-1].isspace()
        assert "\n" not in problem.answer
        assert problem.before
        assert problem.after
        assert any(problem.before + problem.answer + problem.after in text for text in texts)
        assert problem.is_solved_by(problem.answer.strip())
        assert not problem.is_solved_by(problem.answer + " more")
    names = {passage.text: passage.document for passage in passages()}
    of_documents = [
        next(names[text] for text in texts if problem.before + problem.answer + problem.after in text)
        for problem in problems
    ]
    assert len(set(of_documents)) == len(problems)
    assert len({len(problem.answer.split()) for problem in problems}) == MAX_WORDS - MIN_WORDS + 1
    assert load_infill(num_problems=5) == problems[:5]
    with pytest.raises(ParameterError, match="num_problems is 0"):
        load_infill(num_problems=0)
    canvas, answer = problems[0].canvas(tokenizer)
    assert canvas.count(None) == len(answer)
    assert tokenizer.decode(answer) == problems[0].answer


def test_every_gap_fits_the_embedded_model(embedded: LLM, tokenizer: Tokenizer) -> None:
    assert max(len(problem.canvas(tokenizer)[0]) for problem in load_infill()) <= embedded.config.max_sequence_length


def test_white_space_does_not_decide_about_a_gap() -> None:
    problem = InfillProblem(before="The cat", answer=" sat on the mat", after=".", source="", licence="")
    assert problem.is_solved_by("sat  on\nthe mat ")
    assert not problem.is_solved_by("sat on the matt")
