"""`surelock infill`: text between given texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import orjson
import typer
from typer.core import TyperCommand

from surelock.cli.files import check_distinct
from surelock.cli.generate import LockMapPath, TracePath
from surelock.cli.loading import load_llm
from surelock.cli.options import DecodingOptions, JsonFlag, option, with_options
from surelock.cli.prompts import checked_text, read_standard_input
from surelock.cli.watch import recording, run_watched
from surelock.errors import PromptError

Segment = str | int
DEFAULT_GAP = 16


# Where the command leaves the names of its options in the order they were given.
_ORDER: Final = "surelock.cli.infill"


class InfillCommand(TyperCommand):
    """A command that knows the order of its options, a repeated one included, which its values alone do not tell."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as usual, and keep the order."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[_ORDER] = [parameter.name for parameter in order]
        return super().parse_args(ctx, args)


@with_options()
def infill(
    context: typer.Context,
    decoding: DecodingOptions,
    prefix: Annotated[list[str] | None, option("Text before the gap.", metavar="<str>")] = None,
    suffix: Annotated[list[str] | None, option("Text after the gap.", metavar="<str>")] = None,
    gap: Annotated[
        list[int] | None, option("Length of the gap in tokens.", default=str(DEFAULT_GAP), metavar="<int>")
    ] = None,
    segments: Annotated[
        str | None,
        option(
            "Several gaps: a list of texts and gap lengths in order, such as "
            '\'["It was ", 4, " that ", 8, "."]\'; `-` reads it from standard input.',
            metavar="JSON",
        ),
    ] = None,
    json: JsonFlag = False,
    trace: TracePath = None,
    lock_map: LockMapPath = None,
) -> None:
    """Fill gaps of a given length between given texts, and print the whole document.

    Either --prefix and --suffix around one --gap, or --segments for any number of gaps.

    Where one of --prefix, --gap and --suffix is given twice, all of them are taken in the order they stand in.

    Nothing inside a text is ever read as a gap.
    """
    params = decoding.params(0)
    given: dict[str, Sequence[Segment]] = {"prefix": prefix or [], "suffix": suffix or [], "gap": gap or []}
    document = _document(given, context.meta[_ORDER], segments)
    check_distinct(trace=trace, lock_map=lock_map)
    with recording(trace, lock_map) as recorders:
        llm = load_llm(decoding.model)
        run_watched(
            lambda on_step: [llm.infill(document, params, on_step=on_step)],
            llm.tokenizer,
            num_prompts=1,
            as_json=json,
            show_prompt=True,
            recorders=recorders,
        )


def _document(given: Mapping[str, Sequence[Segment]], order: Sequence[str], segments: str | None) -> list[Segment]:
    """Texts and gap lengths in order.

    Args:
        given: values of --prefix, --suffix and --gap.
        order: of all options.

    Raises:
        PromptError: both forms are given or none, the order leaves out where a gap is, or the JSON is not such a list.
    """
    if segments is not None:
        if any(given.values()):
            raise PromptError("--segments stands alone; leave --prefix, --suffix and --gap out")
        return _parse_segments(read_standard_input() if segments == "-" else segments)
    if not given["prefix"] and not given["suffix"]:
        raise PromptError("nothing to fill: give --prefix or --suffix with --gap, or --segments")
    for length in given["gap"]:
        if isinstance(length, int) and length < 1:
            raise PromptError(f"--gap is {length}; it must be at least 1")
    if all(len(values) <= 1 for values in given.values()):
        # Once each: the gap is between the two, wherever it stands.
        document = [*given["prefix"], *(given["gap"] or [DEFAULT_GAP]), *given["suffix"]]
    elif not given["gap"]:
        raise PromptError("--prefix or --suffix is given twice without a gap: put --gap, such as --gap 8, where one is")
    else:
        left = {name: iter(values) for name, values in given.items()}
        document = [next(left[name]) for name in order if name in left]
    for segment in document:
        if isinstance(segment, str):
            checked_text(segment, "--prefix or --suffix")
    return [segment for segment in document if segment != ""]


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
