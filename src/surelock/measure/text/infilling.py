"""Gaps of 4 to 16 words cut out of sentences, with the text around them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import islice
from typing import Final

from surelock.errors import ParameterError
from surelock.measure.text.documents import Passage, in_turns
from surelock.text.tokenizer import Tokenizer

MIN_WORDS: Final = 4
MAX_WORDS: Final = 16

# Of given text on each side of a gap: room for it in a context of 512 tokens.
_CONTEXT_CHARACTERS: Final = 400
# Up to its full stop, and with at least a few words left around the longest gap.
_SENTENCE: Final = re.compile(r"[A-Z][^.!?\n]{40,400}[.!?]")
_MIN_REMAINING_WORDS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class InfillProblem:
    """A text with a gap: before + answer + after is what was really there.

    Attributes:
        before, answer, after: texts; the answer begins with the space before its first word.
        source, licence: of the text.
    """

    before: str
    answer: str
    after: str
    source: str
    licence: str

    def canvas(self, tokenizer: Tokenizer) -> tuple[list[int | None], list[int]]:
        """Token ids with None for each token of the answer, and the answer's token ids."""
        answer = tokenizer.encode(self.answer, bos=False)
        before, after = tokenizer.encode(self.before), tokenizer.encode(self.after, bos=False)
        return [*before, *[None] * len(answer), *after], answer

    def is_solved_by(self, text: str) -> bool:
        """Whether the text is the answer, runs of white space counted as one space."""
        return text.split() == self.answer.split()


def load_infill(split: str = "test", *, num_problems: int | None = None) -> list[InfillProblem]:
    """At most one problem of each passage, always the same ones in the same order; the sources take turns.

    Every document gives one problem before any gives a second.

    Raises:
        ParameterError: there is no such split.
        ParameterError: fewer than one problem is asked for.
    """
    if num_problems is not None and num_problems < 1:
        raise ParameterError(f"num_problems is {num_problems}; it must be at least 1")
    return list(islice(in_turns(_cut, split), num_problems))


def _cut(passage: Passage) -> InfillProblem | None:
    """A gap in a sentence of the passage, chosen by the passage's name; None if no sentence is long enough."""
    rng = random.Random(passage.key)
    sentences = [
        (match.start(), words)
        for match in _SENTENCE.finditer(passage.text)
        if len(words := list(re.finditer(r"\S+", match[0]))) >= MIN_WORDS + _MIN_REMAINING_WORDS
    ]
    if not sentences:
        return None
    start, words = rng.choice(sentences)
    num_words = rng.randint(MIN_WORDS, min(MAX_WORDS, len(words) - _MIN_REMAINING_WORDS))
    # The sentence's first and last word stay.
    first = rng.randint(1, len(words) - num_words - 1)
    gap_start, gap_end = start + words[first - 1].end(), start + words[first + num_words - 1].end()
    return InfillProblem(
        before=_last_words(passage.text[:gap_start]),
        answer=passage.text[gap_start:gap_end],
        after=_first_words(passage.text[gap_end:]),
        source=passage.source,
        licence=passage.licence,
    )


def _last_words(text: str) -> str:
    start = text.find(" ", max(len(text) - _CONTEXT_CHARACTERS, 0)) if len(text) > _CONTEXT_CHARACTERS else -1
    return text[start + 1 :]


def _first_words(text: str) -> str:
    end = text.rfind(" ", 0, _CONTEXT_CHARACTERS) if len(text) > _CONTEXT_CHARACTERS else len(text)
    return text[: end if end > 0 else _CONTEXT_CHARACTERS]
