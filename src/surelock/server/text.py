"""From a canvas that settles out of order to text: what is final, what is shown, and where it ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, Protocol

UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"


class Decoder(Protocol):
    """What is asked of a `Tokenizer`."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...

    def decode_visible(self, ids: Sequence[int | None], mask_char: str = ...) -> list[str]:
        """One string to display for each position."""
        ...


@dataclass(frozen=True, slots=True)
class FinalText:
    """Text that can no longer change.

    Attributes:
        text: the beginning of the answer, or all of it.
        is_complete: it is all of it.
        stop: the stop string that ended it.
        tokens: generated ones it is made of; with a stop string or an unfinished character at its end a few more.
        is_cut: an end id or a stop string ended it.
    """

    text: str
    is_complete: bool
    stop: str | None
    tokens: list[int]
    is_cut: bool


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

    @property
    def positions(self) -> list[int]:
        """The generated positions of the answer."""
        return [position for part in self.parts if isinstance(part, range) for position in part]

    def final_text(self, tokens: Sequence[int], masked: Sequence[bool], decoder: Decoder) -> FinalText:
        """The longest beginning of the answer that no later step can change.

        An unmasked token stays what it is, so that is everything before the first mask, without a character whose bytes
        are not all there and without what may be the beginning of a stop string. With nothing masked it is the answer.
        """
        pieces: list[str] = []
        kept: list[int] = []
        is_complete, is_cut = True, False
        for part in self.parts:
            if isinstance(part, str):
                pieces.append(part)
                continue
            settled = [tokens[position] for position in takewhile(lambda position: not masked[position], part)]
            before_end = list(takewhile(lambda token: token not in self.end_ids, settled))
            piece = decoder.decode(before_end)
            is_cut = len(before_end) < len(settled)
            is_complete = is_cut or len(settled) == len(part)
            kept += before_end
            if not is_complete:
                piece = piece.rstrip(UNFINISHED)
            pieces.append(piece)
            if is_cut or not is_complete:
                break
        text = "".join(pieces)
        at, stop = find_stop(text, self.stops)
        if not is_complete:
            held_from = len(text) - num_held_back(text, self.stops)
            # What begins before the stop string that was found, or with it, may turn out to be another one.
            if stop is None or held_from <= at:
                return FinalText(text[:held_from], False, None, kept, False)
        if stop is not None:
            return FinalText(text[:at], True, stop, kept, True)
        return FinalText(text, True, None, kept, is_cut)

    def shown_text(self, tokens: Sequence[int], masked: Sequence[bool], decoder: Decoder, mask_char: str) -> str:
        """The answer as it stands, a mask_char for each masked position."""
        pieces: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                pieces.append(part)
                continue
            run: list[int] = []
            for position in part:
                if masked[position]:
                    pieces += [decoder.decode(run), mask_char]
                    run = []
                elif tokens[position] in self.end_ids:
                    break
                else:
                    run.append(tokens[position])
            pieces.append(decoder.decode(run))
        return "".join(pieces)


def find_stop(text: str, stops: Iterable[str]) -> tuple[int, str | None]:
    """Where the first stop string begins, and which it is: the longest of those that begin there."""
    found = [(at, -len(stop), stop) for stop in stops if (at := text.find(stop)) >= 0]
    if not found:
        return len(text), None
    at, _, stop = min(found)
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


def num_tokens_within(tokens: Sequence[int], num_characters: int, decoder: Decoder) -> int:
    """How many leading tokens lie wholly within the first characters of their text. By halves: see `assemble`."""
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high + 1) // 2
        if len(decoder.decode(tokens[:middle])) <= num_characters:
            low = middle
        else:
            high = middle - 1
    return low


def token_texts(tokens: Sequence[int], decoder: Decoder) -> list[str]:
    """The text each token adds; joined, the text of all. A character of several tokens belongs to its last."""
    texts: list[str] = []
    # Decoded from the last whole character but one, so that the cost is linear and a first token keeps its space.
    start = shown = 0
    for index in range(len(tokens)):
        before = decoder.decode(tokens[start:shown])
        text = decoder.decode(tokens[start : index + 1])
        if text.endswith(UNFINISHED) and index < len(tokens) - 1:
            texts.append("")
            continue
        texts.append(text[len(before) :])
        start, shown = shown, index + 1
    return texts
