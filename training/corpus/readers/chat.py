"""Chats of two volunteers, from chitchat-dataset."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from training.corpus.archives import member
from training.corpus.clean import has_contact, is_indecent, paragraph
from training.corpus.document import Document

_MIN_TURNS: Final = 6
_MAX_TURN_LENGTH: Final = 700


def read_chats(path: Path) -> Iterator[Document]:
    """One document a chat of six usable turns or more; a turn is a paragraph that opens with `A: ` or `B: `."""
    for name, chat in json.loads(member(path, r"^chitchat_dataset/dataset\.json$")).items():
        turns = list(chat_turns(chat["messages"]))
        if len(turns) >= _MIN_TURNS:
            yield Document(name, turns)


def chat_turns(messages: Sequence[Sequence[dict[str, Any]]]) -> Iterator[str]:
    """Clean turns of a chat; one with an address, a slur or a letter held down is left out."""
    speakers: dict[str, str] = {}
    for turn in messages:
        texts = [message["text"].strip() for message in turn]
        text = paragraph(" ".join(_ended(text) for text in texts if text))
        unusable = has_contact(text) or is_indecent(text) or re.search(r"(.)\1{5,}", text)
        if not text or len(text) > _MAX_TURN_LENGTH or unusable:
            continue
        speaker = speakers.setdefault(turn[0]["sender"], "AB"[len(speakers) % 2])
        text = re.sub(r"\bi\b", "I", text)
        yield f"{speaker}: {text[0].upper()}{text[1:]}"


def _ended(text: str) -> str:
    return text if re.search(r"[.!?)]$", text) else text + "."
