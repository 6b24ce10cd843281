"""The engine's own steps over whole canvases, with every position measured."""

from surelock.measure.instrumented.decoder import CanvasIds, InstrumentedDecoder, group_canvases
from surelock.measure.instrumented.records import (
    KVDrift,
    MeasuredState,
    MeasuredStep,
    Recorder,
    RefreshEvery,
    RunRecord,
)

__all__ = [
    "CanvasIds",
    "InstrumentedDecoder",
    "KVDrift",
    "MeasuredState",
    "MeasuredStep",
    "Recorder",
    "RefreshEvery",
    "RunRecord",
    "group_canvases",
]
