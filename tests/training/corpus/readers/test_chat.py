from __future__ import annotations

import json
from pathlib import Path

from tests.training.corpus.packages import write_package
from training.corpus.readers.chat import chat_turns, read_chats


def turn(sender: str, *texts: str) -> list[dict[str, str]]:
    return [{"sender": sender, "text": text} for text in texts]


def test_turns_are_cleaned_and_their_speakers_renamed() -> None:
    messages = [
        turn("u7", "hi there", " how are you? ", ""),
        turn("u9", "i am fine"),
        turn("u7", "call me at 801-555-0100"),
        turn("u9", "what the fuck"),
        turn("u7", "aaaaaaaaah"),
        turn("u9", "x" * 701),
        turn("u9", ""),
        turn("u7", "ok (bye)"),
    ]
    assert list(chat_turns(messages)) == ["A: Hi there. how are you?", "B: I am fine.", "A: Ok (bye)"]


def test_chats_of_six_turns(tmp_path: Path) -> None:
    chats = {
        "long": {"messages": [turn("u", "yes")] * 6},
        "short": {"messages": [turn("u", "yes")] * 5},
    }
    files = {"chitchat_dataset/dataset.json": json.dumps(chats).encode()}
    (document,) = read_chats(write_package(tmp_path / "p.whl", files))
    assert document.id == "long"
    assert document.paragraphs == ["A: Yes."] * 6
