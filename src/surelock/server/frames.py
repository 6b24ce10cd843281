"""One choice of a stream: from its snapshots to the pieces a client is sent (docs/serving.md, "Streams")."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from surelock.decoding.schedule import plan
from surelock.errors import EngineError
from surelock.flops import full_flops
from surelock.llm import LLM
from surelock.server.formats import Piece
from surelock.server.prepare import Choice, tokenizer_of
from surelock.server.recorder import RecordedSnapshot
from surelock.server.results import Result, probabilities
from surelock.server.schemas import GenerationRequest
from surelock.text.answers import num_tokens_within


class Frames(ABC):
    """Makes the pieces of one choice, in order: `first`, `next` for some of its snapshots, `last`."""

    def __init__(self, llm: LLM, choice: Choice) -> None:
        self._llm = llm
        self._choice = choice
        self._tokenizer = tokenizer_of(llm)
        self._decode = self._tokenizer.decode

    def first(self) -> Piece:
        """Before the first step, at once: text may come late."""
        choice = self._choice
        num_prompt, num_gaps = len(choice.canvas_ids), choice.canvas_ids.count(None)
        state = {
            "step": 0,
            "num_steps": plan(choice.params, num_prompt, num_gaps).num_steps,
            "masked": choice.num_generated,
            "rows": num_prompt + choice.params.max_tokens,
            "saved_flops": 0.0,
            "seconds": 0.0,
        }
        text, canvas = self._first()
        return Piece(index=choice.index, text=text, is_first=True, surelock=state | canvas)

    @abstractmethod
    def next(self, snapshot: RecordedSnapshot) -> Piece | None:
        """After a step, the last one excepted; None if there is nothing to say."""

    def last(self, result: Result) -> Piece:
        """After the last step."""
        return Piece(
            index=result.choice.index,
            text=result.final.text,
            finish_reason=result.finish_reason,
            stop=result.final.stop,
            probabilities=result.probabilities,
            surelock=self._state(result.snapshot),
        )

    def _first(self) -> tuple[str, dict[str, Any]]:
        """The text of the first piece, and what it tells of the canvas."""
        return "", {"locked": []}

    def _state(self, snapshot: RecordedSnapshot) -> dict[str, Any]:
        """The object `surelock` of a piece."""
        return self._counts(snapshot) | {"locked": spans(step is not None for step in snapshot.locked_at)}

    def _counts(self, snapshot: RecordedSnapshot) -> dict[str, Any]:
        locked, base = full_flops(self._llm.config, **snapshot.spent)
        return {
            "step": snapshot.step,
            "num_steps": snapshot.request.num_steps,
            "masked": sum(snapshot.masked),
            "rows": snapshot.active_rows[-1] if snapshot.active_rows else 0,
            # Below 0 if measuring cost more.
            "saved_flops": round(1 - locked / base, 6) if base else 0.0,
            "seconds": round(snapshot.seconds, 6),
        }


class AppendedFrames(Frames):
    """Append-only deltas of the final prefix."""

    def __init__(self, llm: LLM, choice: Choice, *, with_probabilities: bool) -> None:
        super().__init__(llm, choice)
        self._with_probabilities = with_probabilities
        # The generated positions from the first one on that was masked when last looked at.
        self._unsettled = deque(choice.layout.positions)
        self._sent = ""
        self._num_tokens_sent = 0

    def next(self, snapshot: RecordedSnapshot) -> Piece | None:
        """What has become final since the piece before."""
        if self._unsettled and snapshot.masked[self._unsettled[0]]:
            return None
        while self._unsettled and not snapshot.masked[self._unsettled[0]]:
            self._unsettled.popleft()
        final = self._choice.layout.final_text(snapshot.tokens, snapshot.masked, self._decode)
        # After a restart the text grows once more; what was sent comes again and is not sent again.
        if len(final.text) <= len(self._sent):
            return None
        num_tokens = self._num_tokens_sent
        if self._with_probabilities:
            num_tokens = max(num_tokens, num_tokens_within(final.tokens, len(final.text), self._decode))
        return self._piece(final.text, snapshot, final.tokens[:num_tokens])

    def last(self, result: Result) -> Piece:
        """The rest."""
        piece = self._piece(result.final.text, result.snapshot, result.final.tokens)
        return replace(piece, finish_reason=result.finish_reason, stop=result.final.stop)

    def _piece(self, text: str, snapshot: RecordedSnapshot, tokens: list[int]) -> Piece:
        if not text.startswith(self._sent):
            # Only after a restart in half precision, where another batch rounds otherwise.
            raise EngineError("memory ran out, the request began again and came out different: send it again")
        offset, self._sent = len(self._sent), text
        chances = None
        if self._with_probabilities:
            chances = probabilities(self._llm, self._choice, snapshot, tokens)[self._num_tokens_sent :]
            self._num_tokens_sent = len(tokens)
        return Piece(
            index=self._choice.index,
            text=text[offset:],
            probabilities=chances,
            text_offset=offset,
            surelock=self._state(snapshot),
        )


class SnapshotFrames(Frames):
    """The whole text in every piece."""

    def __init__(self, llm: LLM, choice: Choice, *, mask_char: str) -> None:
        super().__init__(llm, choice)
        self._mask_char = mask_char

    def next(self, snapshot: RecordedSnapshot) -> Piece | None:
        """The text as it stands."""
        layout = self._choice.layout
        text = layout.shown_text(snapshot.tokens, snapshot.masked, self._decode, self._mask_char)
        return Piece(index=self._choice.index, text=text, surelock=self._state(snapshot))

    def _first(self) -> tuple[str, dict[str, Any]]:
        parts = self._choice.layout.parts
        text = "".join(part if isinstance(part, str) else self._mask_char * len(part) for part in parts)
        return text, {"locked": []}


class PatchFrames(Frames):
    """What changed since the piece before, position by position."""

    def __init__(self, llm: LLM, choice: Choice) -> None:
        super().__init__(llm, choice)
        self._forget()
        self._num_restarts = 0

    def next(self, snapshot: RecordedSnapshot) -> Piece | None:
        """New tokens, new locks, rows of the steps between."""
        return Piece(index=self._choice.index, text="", surelock=self._state(snapshot))

    def _first(self) -> tuple[str, dict[str, Any]]:
        choice = self._choice
        texts = iter(self._tokenizer.decode_visible([token for token in choice.canvas_ids if token is not None]))
        canvas = [None if token is None else next(texts) for token in choice.canvas_ids]
        canvas += [None] * choice.params.max_tokens
        return "", {"canvas": {"tokens": canvas, "num_prompt": len(choice.canvas_ids)}}

    def _forget(self) -> None:
        self._unmasked: set[int] = set()
        self._locked: set[int] = set()
        self._step = 0

    def _state(self, snapshot: RecordedSnapshot) -> dict[str, Any]:
        state = self._counts(snapshot)
        if snapshot.num_restarts > self._num_restarts:
            self._num_restarts = snapshot.num_restarts
            self._forget()
            state["restarted"] = True
        new = sorted(snapshot.commits.keys() - self._unmasked)
        texts = self._tokenizer.decode_visible([snapshot.tokens[position] for position in new])
        committed = []
        for position, text in zip(new, texts, strict=True):
            step, confidence = snapshot.commits[position]
            committed.append([position, text, round(confidence, 4), step])
        locked = [
            [position, step]
            for position, step in enumerate(snapshot.locked_at)
            if step is not None and position not in self._locked
        ]
        state["patch"] = {"tokens": committed, "locked": locked, "rows": snapshot.active_rows[self._step :]}
        self._unmasked.update(new)
        self._locked.update(position for position, _ in locked)
        self._step = snapshot.step
        return state


def frames_for(llm: LLM, choice: Choice, request: GenerationRequest, *, with_probabilities: bool) -> Frames:
    """What a request's stream is made of."""
    if not request.diffusing:
        return AppendedFrames(llm, choice, with_probabilities=with_probabilities)
    if request.stream_options.surelock == "patch":
        return PatchFrames(llm, choice)
    return SnapshotFrames(llm, choice, mask_char=request.mask_char)


def spans(flags: Iterable[bool]) -> list[list[int]]:
    """Runs of true flags as [start, end), positions counted from 0."""
    flags = [False, *flags, False]
    edges = [position for position, (before, after) in enumerate(pairwise(flags)) if before != after]
    return [[start, end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
