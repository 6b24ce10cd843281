"""Prometheus metrics of one server. Labels have a fixed set of values; nothing a client sends becomes one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from surelock.server.log import num_dropped_lines
from surelock.server.results import Result

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_SHARES: Final = tuple(number / 20 for number in range(1, 21))


class Metrics:
    """The counters, gauges and histograms, in a registry of their own."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        gauge, counter = partial(Gauge, registry=self.registry), partial(Counter, registry=self.registry)
        build = Info("surelock_build", "Version and model.", registry=self.registry)
        build.info({"version": version("surelock"), "model": model})
        self.running = gauge("surelock_requests_running", "Choices in the batch.")
        self.waiting = gauge("surelock_requests_waiting", "Choices that wait for a slot.")
        self.rows = gauge("surelock_attention_rows_active", "Rows of the next step.")
        self.heartbeat = gauge("surelock_engine_heartbeat_timestamp_seconds", "When the engine's thread last moved.")
        self.requests = counter("surelock_requests", "HTTP responses.", ["code"])
        self.finished = counter("surelock_request_success", "Finished choices.", ["finish_reason"])
        self.rejections = counter("surelock_admission_rejections", "Refused requests.", ["reason"])
        self.aborts = counter("surelock_aborts", "Requests that ended early.", ["reason"])
        self.nonfinite = counter("surelock_nonfinite_logits", "Choices with NaN or infinite logits.")
        self.restarts = gauge("surelock_oom_recoveries_total", "Choices restarted for memory.")
        self.engine_restarts = gauge("surelock_engine_restarts_total", "Engines made after an error.")
        dropped = gauge("surelock_log_lines_dropped_total", "Lines of the log not written.")
        dropped.set_function(num_dropped_lines)
        self.prompt_tokens = counter("surelock_prompt_tokens", "Given positions.")
        self.generation_tokens = counter("surelock_generation_tokens", "Tokens generated and kept.")
        self.steps = counter("surelock_denoise_steps", "Steps of finished choices, added up.")
        self.queue_time = self._histogram("surelock_request_queue_time_seconds", "Until the first step.")
        self.first_text = self._histogram("surelock_time_to_first_text_seconds", "Until the first text of a stream.")
        self.latency = self._histogram("surelock_e2e_request_latency_seconds", "Until the answer is complete.")
        self.tokens_per_forward = self._histogram(
            "surelock_tokens_per_forward", "Kept tokens of a choice for each of its steps.", (0.25, 0.5, 1, 2, 4, 8, 16)
        )
        self.locked = self._histogram("surelock_locked_token_fraction", "Positions locked at the end.", _SHARES)
        self.saved = self._histogram("surelock_flops_saved_ratio", "Exact FLOPs that locking saved.", _SHARES)
        # So that a dashboard shows 0 rather than nothing.
        for labelled, values in (
            (self.finished, ("stop", "length")),
            (self.rejections, ("queue_full", "draining", "too_many_requests")),
            (self.aborts, ("disconnect", "deadline", "engine")),
        ):
            for value in values:
                labelled.labels(value)

    def watch(self, *, running: Callable[[], int], waiting: Callable[[], int], rows: Callable[[], int]) -> None:
        """Let these gauges ask the engine whenever the metrics are read."""
        self.running.set_function(running)
        self.waiting.set_function(waiting)
        self.rows.set_function(rows)

    def count(self, result: Result, *, waited: float) -> None:
        """Take in a finished choice that waited so many seconds for its first step."""
        stats = result.output.stats
        self.finished.labels(result.finish_reason).inc()
        self.prompt_tokens.inc(result.choice.prompt_tokens)
        self.generation_tokens.inc(len(result.final.tokens))
        self.steps.inc(stats.steps)
        self.queue_time.observe(max(waited, 0.0))
        self.tokens_per_forward.observe(len(result.final.tokens) / max(stats.steps, 1))
        self.locked.observe(result.num_locked / max(len(stats.locked_at), 1))
        self.saved.observe(max(0.0, 1 - stats.flops["full"]["ratio"]))

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)
