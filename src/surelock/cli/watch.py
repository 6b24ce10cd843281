"""One run of the library with everything that watches it: the live view or progress, recorders, printed results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import orjson
from rich.text import Text

from surelock.cli.canvas_view import CanvasView, DisplayTokenizer
from surelock.cli.lock_map import LockMapRecorder
from surelock.cli.progress import JobProgress
from surelock.cli.terminal import can_animate, note, silent_input, standard_error, standard_output
from surelock.cli.trace import TraceWriter
from surelock.errors import NonFiniteLogitsError
from surelock.output import RequestOutput, StepUpdate

Recorder = Callable[[StepUpdate], None]
OnStep = Recorder | None


@contextmanager
def recording(trace: Path | None, lock_map: Path | None) -> Iterator[list[Recorder]]:
    """What is to take in every step, opened before the model is loaded; pictures are drawn when the block ends well.

    Raises:
        ParameterError: a path cannot be written, or matplotlib is missing.
    """
    with ExitStack() as stack:
        maps = [LockMapRecorder(path) for path in (lock_map,) if path is not None]
        traces = [stack.enter_context(TraceWriter(path)) for path in (trace,) if path is not None]
        yield [*(recorder.update for recorder in maps), *(recorder.update for recorder in traces)]
        for recorder in maps:
            recorder.save()


def run_watched(
    run: Callable[[OnStep], Sequence[RequestOutput]],
    tokenizer: DisplayTokenizer | None,
    *,
    num_prompts: int,
    as_json: bool,
    show_prompt: bool,
    recorders: Sequence[Recorder] = (),
) -> list[RequestOutput]:
    """Call `run` with a callback for its steps, and print each result in the order of the prompts.

    The callback is None if nothing watches. On a terminal the canvas is drawn while it settles, and a summary
    ends the run on stderr. Otherwise stdout gets the plain texts, or JSON lines, only.

    Raises:
        NonFiniteLogitsError: after the results of the requests that did finish were printed.
    """
    console = standard_output()
    view: CanvasView | None = None
    watcher: CanvasView | JobProgress
    if can_animate(console) and not as_json:
        watcher = view = CanvasView(console, tokenizer, num_prompts=num_prompts, show_prompt=show_prompt)
    else:
        watcher = JobProgress(standard_error(), num_prompts)
    printer = _Printer(view, as_json=as_json, has_text=tokenizer is not None)

    # A single result is what `run` returns: for infill that is more than the last update holds. JSON would break up a
    # progress line on the same terminal.
    prints_early = num_prompts > 1 and not (as_json and console.is_terminal)

    def on_step(update: StepUpdate) -> None:
        for record in (*recorders, watcher.update):
            record(update)
        if update.output is not None and prints_early:
            printer.add(update.index, update.output)

    started_at = time.monotonic()
    try:
        with silent_input() if view else nullcontext(), watcher:
            # Steps that are not watched need not be told.
            is_watched = view is not None or standard_error().is_terminal or bool(recorders)
            outputs = list(run(on_step if is_watched else None))
    except NonFiniteLogitsError as error:
        printer.add_all(error.outputs)
        raise
    printer.add_all(outputs)
    if not as_json:
        for line in dict.fromkeys(line for output in outputs for line in output.notes):
            note(line)
    if standard_error().is_terminal:
        summary = summarize(outputs, time.monotonic() - started_at)
        standard_error().print(Text(summary, style="dim"), soft_wrap=True)
    return outputs


def summarize(outputs: Sequence[RequestOutput], seconds: float) -> str:
    """One line: tokens, steps, time, and what locking saved."""
    num_tokens = sum(output.generation_tokens for output in outputs)
    num_steps = sum(output.stats.steps for output in outputs)
    rows = sum(sum(output.stats.active_rows) for output in outputs)
    all_rows = sum(output.stats.steps * len(output.canvas_token_ids) for output in outputs)
    base, locked = (sum(output.stats.flops["full"][name] for output in outputs) for name in ("base", "locked"))
    parts = [
        _counted(num_tokens, "token"),
        _counted(num_steps, "step"),
        f"{seconds:.1f} s ({num_tokens / max(seconds, 1e-3):.0f} tokens/s)",
        f"{rows / max(1, all_rows):.0%} of rows computed",
        f"{1 - locked / base:.0%} of FLOPs saved" if base else "",
    ]
    if len(outputs) > 1:
        parts.insert(0, f"{len(outputs)} prompts")
    if len(outputs) == 1 and outputs[0].stats.seed is not None:
        parts.append(f"seed {outputs[0].stats.seed}")
    return " · ".join(part for part in parts if part)


class _Printer:
    """Prints each result once, in the order of the prompts, as soon as all before it are printed."""

    def __init__(self, view: CanvasView | None, *, as_json: bool, has_text: bool) -> None:
        self._view = view
        self._as_json = as_json
        self._has_text = has_text
        self._waiting: dict[int, RequestOutput] = {}
        self._next = 0

    def add(self, index: int, output: RequestOutput) -> None:
        if index >= self._next:
            self._waiting.setdefault(index, output)
        while (ready := self._waiting.pop(self._next, None)) is not None:
            self._print(self._next, ready)
            self._next += 1

    def add_all(self, outputs: Sequence[RequestOutput]) -> None:
        for index, output in enumerate(outputs):
            self.add(index, output)

    def _print(self, index: int, output: RequestOutput) -> None:
        if self._as_json:
            write_json(output.to_dict())
        elif output.finish_reason == "error":
            # What there is of its text is of no use; the error that follows says so.
            return
        elif self._view is not None:
            self._view.finish(index, output)
        else:
            text = output.text if self._has_text else " ".join(map(str, output.token_ids))
            write_line(text.encode())


def write_json(value: object) -> None:
    """One JSON object on a line of stdout."""
    write_line(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))


def write_line(content: bytes) -> None:
    """One line on stdout, in UTF-8 whatever the locale, at once."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content + b"\n")
    sys.stdout.buffer.flush()


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
