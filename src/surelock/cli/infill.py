"""`surelock infill`: text between given texts."""

from __future__ import annotations

from typing import Annotated

import orjson
import typer

from surelock.cli.generate import LockMapPath, TracePath, check_distinct
from surelock.cli.loading import load_llm
from surelock.cli.options import JsonFlag, LockOptions, ModelOptions, SamplingOptions, sampling_params, with_options
from surelock.cli.prompts import checked_text, read_standard_input
from surelock.cli.watch import recording, run_watched
from surelock.errors import PromptError

Segment = str | int
DEFAULT_GAP = 16


@with_options
def infill(
    model: ModelOptions,
    sampling: SamplingOptions,
    lock: LockOptions,
    prefix: Annotated[str | None, typer.Option(help="Text before the gap.", show_default=False)] = None,
    suffix: Annotated[str | None, typer.Option(help="Text after the gap.", show_default=False)] = None,
    gap: Annotated[int | None, typer.Option(help="Length of the gap in tokens.", show_default=str(DEFAULT_GAP))] = None,
    segments: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Several gaps: a list of texts and gap lengths in order, such as "
            '\'["It was ", 4, " that ", 8, "."]\'; `-` reads it from standard input.',
            show_default=False,
        ),
    ] = None,
    json: JsonFlag = False,
    trace: TracePath = None,
    lock_map: LockMapPath = None,
) -> None:
    """Fill gaps of a given length between given texts, and print the whole document.

    Either --prefix and --suffix around one --gap, or --segments for any number of gaps.

    Nothing inside a text is ever read as a gap.
    """
    params = sampling_params(0, sampling, lock, model)
    document = _document(prefix, suffix, gap, segments)
    check_distinct(trace=trace, lock_map=lock_map)
    with recording(trace, lock_map) as recorders:
        llm = load_llm(model)
        run_watched(
            lambda on_step: [llm.infill(document, params, on_step=on_step)],
            llm.tokenizer,
            num_prompts=1,
            as_json=json,
            show_prompt=True,
            recorders=recorders,
        )


def _document(prefix: str | None, suffix: str | None, gap: int | None, segments: str | None) -> list[Segment]:
    """Texts and gap lengths in order.

    Raises:
        PromptError: both forms are given or none, or the JSON is not such a list.
    """
    if segments is None:
        if prefix is None and suffix is None:
            raise PromptError("nothing to fill: give --prefix or --suffix with --gap, or --segments")
        length = DEFAULT_GAP if gap is None else gap
        if length < 1:
            raise PromptError(f"--gap is {length}; it must be at least 1")
        before = [checked_text(prefix, "--prefix")] if prefix else []
        after = [checked_text(suffix, "--suffix")] if suffix else []
        return [*before, length, *after]
    if (prefix, suffix, gap) != (None, None, None):
        raise PromptError("--segments stands alone; leave --prefix, --suffix and --gap out")
    return _parse_segments(read_standard_input() if segments == "-" else segments)


def _parse_segments(text: str) -> list[Segment]:
    try:
        segments = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise PromptError(f'--segments is not JSON: {error}; write a list such as \'["A ", 8, " B"]\'') from None
    if not isinstance(segments, list):
        raise PromptError('--segments must be a list of texts and gap lengths, such as \'["A ", 8, " B"]\'')
    for number, segment in enumerate(segments, start=1):
        # JSON true would pass as the integer 1.
        is_gap = isinstance(segment, int) and not isinstance(segment, bool)
        if not isinstance(segment, str) and not (is_gap and segment >= 1):
            shown = orjson.dumps(segment).decode()
            raise PromptError(f"--segments item {number} is {shown}; it must be a text or a gap length of at least 1")
    if not any(isinstance(segment, int) for segment in segments):
        raise PromptError("--segments has no gap; put a length, such as 8, between two texts")
    return segments
