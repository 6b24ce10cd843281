"""From a canvas that settles out of order to text: what is final, what is shown, and where it ends."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Final

UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"

# The text of token ids, such as `Tokenizer.decode`.
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class FinalText:
    """Text that can no longer change.

    Attributes:
        text: the beginning of the answer, or all of it.
        tokens: the generated tokens it is made of; with an unfinished character at its end a few more.
        is_cut: an end id or a stop string ended it.
        stop: that stop string.
    """

    text: str
    tokens: list[int]
    is_cut: bool = False
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which canvas positions, and which given texts between them, make up an answer.

    Attributes:
        parts: given text and ranges of positions, in order.
        end_ids: the answer ends before the first of them.
        stops: and before the first of these strings.
    """

    parts: tuple[str | range, ...]
    end_ids: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()

    @classmethod
    def of_segments(cls, segments: Sequence[str | int], canvas_ids: Sequence[int | None]) -> Layout:
        """Of a document: its strings as they are, and its gaps where the canvas made of it has None.

        Gaps that touch are one text, because a character may have bytes in both.
        """
        parts: list[str | range] = []
        end = 0
        for is_text, run in groupby((part for part in segments if part != ""), key=lambda part: isinstance(part, str)):
            if is_text:
                parts += map(str, run)
            else:
                start = next(position for position in range(end, len(canvas_ids)) if canvas_ids[position] is None)
                end = start + sum(map(int, run))
                parts.append(range(start, end))
        return cls(tuple(parts))

    @property
    def positions(self) -> list[int]:
        """The generated positions of the answer."""
        return [position for part in self.parts if isinstance(part, range) for position in part]

    def final_text(self, tokens: Sequence[int], masked: Sequence[bool], decode: Decode) -> FinalText:
        """The longest beginning of the answer that no later step can change.

        An unmasked token stays what it is, so that is everything before the first mask, without a character whose bytes
        are not all there and without what may be the beginning of a stop string. With nothing masked it is the answer.
        """
        text = ""
        kept: list[int] = []
        is_complete, is_cut = True, False
        for part in self.parts:
            if isinstance(part, str):
                text += part
                continue
            settled = [tokens[position] for position in takewhile(lambda position: not masked[position], part)]
            before_end = list(takewhile(lambda token: token not in self.end_ids, settled))
            is_cut = len(before_end) < len(settled)
            is_complete = is_cut or len(settled) == len(part)
            kept += before_end
            text += decode(before_end) if is_complete else decode(before_end).rstrip(UNFINISHED)
            if is_cut or not is_complete:
                break
        at, stop = find_stop(text, self.stops)
        held_from = len(text) if is_complete else len(text) - num_held_back(text, self.stops)
        # What begins before the stop string that was found, or with it, may turn out to be another one.
        if stop is not None and (is_complete or at < held_from):
            return FinalText(text[:at], kept[: num_tokens_within(kept, at, decode)], True, stop)
        return FinalText(text[:held_from], kept, is_cut)

    def shown_text(self, tokens: Sequence[int], masked: Sequence[bool], decode: Decode, mask_char: str) -> str:
        """The answer as it stands, a mask_char for each masked position."""
        pieces: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                pieces.append(part)
                continue
            run: list[int] = []
            for position in part:
                if masked[position]:
                    pieces += [decode(run), mask_char]
                    run = []
                elif tokens[position] in self.end_ids:
                    break
                else:
                    run.append(tokens[position])
            pieces.append(decode(run))
        return "".join(pieces)


def no_text(ids: Sequence[int]) -> str:
    """Decodes for a model without a tokenizer."""
    return ""


def find_stop(text: str, stops: Iterable[str]) -> tuple[int, str | None]:
    """Where the first stop string begins, and which it is: the longest of those that begin there."""
    found = [(at, -len(stop), stop) for stop in stops if (at := text.find(stop)) >= 0]
    at, _, stop = min(found, default=(len(text), 0, None))
    return at, stop


def num_held_back(text: str, stops: Iterable[str]) -> int:
    """Characters at the end of a text that may turn out to be the beginning of a stop string."""
    lengths = (
        length
        for stop in stops
        for length in range(min(len(stop) - 1, len(text)), 0, -1)
        if text.endswith(stop[:length])
    )
    return max(lengths, default=0)


def num_tokens_within(tokens: Sequence[int], num_characters: int, decode: Decode) -> int:
    """How many leading tokens lie wholly within the first characters of their text.

    A search by halves: one more token never shortens the text of a byte-level decoder, for which an unfinished
    character counts as one.
    """
    counts = range(len(tokens) + 1)
    return bisect_right(counts, num_characters, key=lambda num: len(decode(tokens[:num]))) - 1


def token_texts(tokens: Sequence[int], decode: Decode) -> list[str]:
    """The text each token adds; joined, the text of all. A character of several tokens belongs to its last."""
    texts: list[str] = []
    # Decoded from the last whole character but one, so that the cost is linear and a first token keeps its space.
    start = shown = 0
    for index in range(len(tokens)):
        before = decode(tokens[start:shown])
        text = decode(tokens[start : index + 1])
        if text.endswith(UNFINISHED) and index < len(tokens) - 1:
            texts.append("")
            continue
        texts.append(text[len(before) :])
        start, shown = shown, index + 1
    return texts
