"""The history of a request, and what streams make of one that began again because memory ran out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from surelock import LLM
from surelock.decoding.step import StepCounts
from surelock.engine.request import Request
from surelock.engine.snapshot import Snapshot
from surelock.errors import EngineError
from surelock.params import SamplingParams
from surelock.server.frames import AppendedFrames, PatchFrames
from surelock.server.prepare import Choice
from surelock.server.recorder import RecordedSnapshot, RecordingEngine
from surelock.text.answers import Layout

PARAMS = SamplingParams(max_tokens=3)
TOKENS = [300, 400, 500, 600]
CHOICE = Choice(0, (300,), PARAMS, Layout((range(1, 4),)), 1)


class OneRequest:
    """Commits one position a step, from the left; `begin_again` is what running out of memory does."""

    def __init__(self) -> None:
        self.request = Request(0, (300,), PARAMS, seed=0)
        self.request.slot = 0
        self.stale: list[Snapshot] = []

    @property
    def has_unfinished(self) -> bool:
        return not self.request.is_finished

    def add_request(self, canvas_ids: Sequence[int | None], params: SamplingParams) -> Request:
        return self.request

    def abort_request(self, request: Request) -> None:
        self.request.slot = None

    def step(self, *, watched: bool = True) -> list[Snapshot]:
        if self.stale:
            told, self.stale = self.stale, []
            return told
        is_done = self.request.step + 1 == PARAMS.max_tokens
        nothing = dict.fromkeys(StepCounts._fields, 0)
        self.request.count(StepCounts(**(nothing | {"rows": 4, "next_rows": 3, "proposed": 1, "done": is_done})))
        return [self._snapshot()]

    def begin_again(self) -> None:
        self.stale = [self._snapshot()]
        self.request.restart()

    def _snapshot(self) -> Snapshot:
        step = self.request.step
        masked = [position > step for position in range(4)]
        tokens = [1 if m else t for t, m in zip(TOKENS, masked, strict=True)]
        return Snapshot(self.request, tokens, masked, [None] * 4, [(step, 0.5 + step / 10)], [], {})


def only(snapshots: list[Snapshot]) -> RecordedSnapshot:
    (snapshot,) = snapshots
    assert isinstance(snapshot, RecordedSnapshot)
    return snapshot


def started() -> tuple[OneRequest, RecordingEngine]:
    engine = OneRequest()
    recorder = RecordingEngine(engine)
    recorder.add_request((300,), PARAMS)
    return engine, recorder


def test_a_snapshot_holds_all_that_happened() -> None:
    engine, recorder = started()
    first = only(recorder.step())
    recorder.step()
    last = only(recorder.step())
    assert last.commits == {1: (1, 0.6), 2: (2, 0.7), 3: (3, 0.8)}
    assert last.active_rows == (4, 4, 4)
    # What was given out does not change.
    assert first.commits == {1: (1, 0.6)}
    assert first.step == 1
    assert engine.request.step == last.step == 3


def test_a_request_that_begins_again_has_no_history() -> None:
    engine, recorder = started()
    recorder.step()
    recorder.step()
    engine.begin_again()
    assert recorder.step() == []
    again = only(recorder.step())
    assert again.commits == {1: (1, 0.6)}
    assert (again.step, again.num_restarts, recorder.num_restarts) == (1, 1, 1)


def test_an_aborted_request_computes_no_rows() -> None:
    engine, recorder = started()
    recorder.step()
    # A refresh needs room for four.
    assert recorder.num_rows == 3 < engine.request.num_rows
    # No step follows where nothing else runs.
    recorder.abort_request(engine.request)
    assert recorder.num_rows == 0


def test_patches_begin_again_and_deltas_repeat_nothing(llm: LLM) -> None:
    engine, recorder = started()
    patches, deltas = PatchFrames(llm, CHOICE), AppendedFrames(llm, CHOICE, with_probabilities=False)
    patches.first()
    sent = ""
    for _ in range(2):
        snapshot = only(recorder.step())
        patches.next(snapshot)
        piece = deltas.next(snapshot)
        sent += (piece.text or "") if piece else ""
    engine.begin_again()
    recorder.step()
    snapshot = only(recorder.step())
    assert deltas.next(snapshot) is None
    piece = patches.next(snapshot)
    assert piece is not None
    assert piece.surelock is not None
    assert piece.surelock["restarted"] is True
    assert [(position, step) for position, _, _, step in piece.surelock["patch"]["tokens"]] == [(1, 1)]
    recorder.step()
    assert llm.tokenizer is not None
    final = CHOICE.layout.final_text(TOKENS, [False] * 4, llm.tokenizer.decode)
    assert final.text.startswith(sent)


def test_a_text_that_comes_out_different_is_an_error(llm: LLM) -> None:
    _, recorder = started()
    deltas = AppendedFrames(llm, CHOICE, with_probabilities=False)
    assert deltas.next(only(recorder.step())) is not None
    deltas._sent = "something else"
    recorder.step()
    last = only(recorder.step())
    with pytest.raises(EngineError, match="came out different"):
        deltas._piece("other", last, [])
