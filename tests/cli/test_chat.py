from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from surelock.cli import chat as chat_module
from surelock.cli.chat import Conversation
from surelock.errors import PromptError
from surelock.params import SamplingParams
from tests.cli.conftest import FakeLibrary, Run, assert_one_line_error
from tests.cli.fake_llm import CONFIG, FakeLLM

REPLY = "Once upon a time,"


def asked(library: FakeLibrary) -> list[str]:
    """The conversation as text of each call to the model."""
    llm = library.made[-1]
    return ["|".join(llm.words.words[id_].strip() for id_ in call["prompt_token_ids"]) for call, _ in llm.calls]


def test_piped_lines_are_turns_of_one_conversation(run: Run, library: FakeLibrary) -> None:
    result = run("chat", "-n", "4", stdin="one\n\ntwo\n")
    assert result.stdout == f"{REPLY}\n{REPLY}\n"
    assert result.exit_code == 0
    reply = "|".join(REPLY.split())
    assert asked(library) == ["one|<turn>", f"one|<turn>|{reply}|<turn>|two|<turn>"]


def test_system_message_and_reset(run: Run, library: FakeLibrary) -> None:
    result = run("chat", "-n", "2", "--system", "Be brief.", stdin="one\n/reset\ntwo\n/exit\nthree\n")
    assert result.exit_code == 0
    assert asked(library) == ["Be|brief.|<turn>|one|<turn>", "Be|brief.|<turn>|two|<turn>"]
    assert "conversation forgotten" in result.stderr


def test_unknown_commands_are_named_and_not_sent(run: Run, library: FakeLibrary) -> None:
    result = run("chat", "-n", "2", stdin="/rest\n/etc/passwd is a file\n")
    assert "no command /rest: /reset" in result.stderr
    assert asked(library) == ["/etc/passwd|is|a|file|<turn>"]


def test_json_prints_one_object_per_turn(run: Run) -> None:
    result = run("chat", "-n", "4", "--json", stdin="one\ntwo\n")
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == [REPLY, REPLY]
    assert result.stderr == ""


def test_empty_input_ends_quietly(run: Run) -> None:
    result = run("chat", stdin="")
    assert (result.stdout, result.stderr, result.exit_code) == ("", "", 0)


@pytest.mark.parametrize(
    ("stdin", "arguments", "fragment"),
    [
        (b"caf\xe9\n", [], "standard input line 1 is not UTF-8"),
        (b"word " * 600, [], "the message has 601 tokens and max_tokens is 128"),
        (b"x", ["--max-tokens", "512"], "lower --max-tokens"),
    ],
)
def test_bad_input(run: Run, stdin: bytes, arguments: list[str], fragment: str) -> None:
    assert_one_line_error(run("chat", *arguments, stdin=stdin), fragment)


@pytest.mark.parametrize("missing", ["template", "tokenizer"])
def test_a_model_that_cannot_chat(run: Run, library: FakeLibrary, missing: str) -> None:
    if missing == "tokenizer":
        library.settings["hides_tokenizer"] = True
    else:
        words = FakeLLM().words
        words.has_chat_template = False
        library.settings["words"] = words
    assert_one_line_error(run("chat", stdin="x"), "has no chat template; use `surelock generate`")


def test_oldest_exchanges_make_room(capsys: pytest.CaptureFixture[str]) -> None:
    llm = FakeLLM(config=replace(CONFIG, max_sequence_length=32))
    params = SamplingParams(max_tokens=4)
    conversation = Conversation(llm, params, system="Be brief.", as_json=True)  # type: ignore[arg-type]
    for number in range(6):
        conversation.reply(f"question number {number}")
        assert len(llm.encode_chat(conversation.messages)) <= 32
        assert conversation.messages[0]["content"] == "Be brief."
        assert conversation.messages[1]["role"] == "user"
    assert conversation.messages[-2]["content"] == "question number 5"
    assert "the context is full: the oldest exchange left out" in capsys.readouterr().err


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str | BaseException]:
    """What a person types; an exception stands for Ctrl-C."""
    entries: list[str | BaseException] = []

    def answer(prompt: str) -> str:
        if not entries:
            raise EOFError
        entry = entries.pop(0)
        if isinstance(entry, BaseException):
            raise entry
        return entry

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(chat_module, "is_conversing", lambda: True)
    return entries


def test_typed_conversation_survives_mistakes(run: Run, library: FakeLibrary, typed: list[str | BaseException]) -> None:
    typed += ["", "word " * 600, "one", "/exit", "two"]
    result = run("chat", "-n", "4")
    assert result.exit_code == 0
    assert "error: the message has 601 tokens" in result.stderr
    assert result.stdout == f"{REPLY}\n"
    assert asked(library) == ["one|<turn>"]


def test_control_c_stops_a_reply_and_forgets_the_turn(
    run: Run, library: FakeLibrary, typed: list[str | BaseException]
) -> None:
    library.settings |= {"error": KeyboardInterrupt(), "error_at_step": 3}
    typed += ["one", "two"]
    result = run("chat", "-n", "8")
    assert result.stderr.count("note: stopped; this turn is forgotten") == 2
    assert asked(library) == ["one|<turn>", "two|<turn>"]


def test_control_c_at_the_prompt_ends(run: Run, typed: list[str | BaseException]) -> None:
    typed += [KeyboardInterrupt()]
    assert run("chat").exit_code == 130


def test_a_failed_turn_is_not_remembered() -> None:
    llm = FakeLLM()
    conversation = Conversation(llm, SamplingParams(max_tokens=4), system=None, as_json=True)  # type: ignore[arg-type]
    with pytest.raises(PromptError):
        conversation.reply("word " * 600)
    assert conversation.messages == []


def test_on_a_terminal_only_the_reply_is_drawn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from surelock.cli import watch
    from tests.cli.test_canvas_view import on_screen, terminal

    output: Console = terminal()
    monkeypatch.setattr(watch, "standard_output", lambda: output)
    run("chat", "-n", "4", stdin="question\n")
    assert on_screen(output) == REPLY
