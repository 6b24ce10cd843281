"""From a complete journal to the files users asked for: JSON lines as the records have them, or tables."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from surelock.batch.folder import JobFolder, remove, replacing
from surelock.batch.journal import Journal
from surelock.batch.records import Record
from surelock.errors import ParameterError

COLUMNS: Final = (
    "row",
    "custom_id",
    "text",
    "finish_reason",
    "prompt_tokens",
    "generation_tokens",
    "steps",
    "active_ratio",
    "flops_ratio",
    "seed",
    "notes",
)
# Fixed, so that the same rows are the same bytes however often a job was stopped.
ROWS_PER_GROUP: Final = 1024

Write = Callable[[Record], None]


def check_output_kind(path: Path) -> None:
    """Refuse an output that could not be written, before any row is run.

    Raises:
        ParameterError: naming `--output`.
    """
    if path.suffix not in WRITERS:
        raise ParameterError(f"--output {path} ends with none of {', '.join(WRITERS)}; rename it")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ParameterError(
            f"--output {path} is Parquet, which needs pyarrow: pip install 'surelock[parquet]', or choose .csv"
        )


def writing(file: BinaryIO, path: Path) -> AbstractContextManager[Write]:
    """What writes records to `file` in the format of `path`; the file is whole when the block ends."""
    return WRITERS[path.suffix](file)


def cells(record: Record) -> dict[str, Any]:
    """An answered row by `COLUMNS`, whichever form its line has."""
    line: dict[str, Any] = record.line
    if "response" in line:
        body = line["response"]["body"]
        (choice,) = body["choices"]
        usage = body["usage"]
        line = {
            "custom_id": line["custom_id"],
            "text": choice["message"]["content"] if "message" in choice else choice["text"],
            "finish_reason": choice["finish_reason"],
            "prompt_tokens": usage["prompt_tokens"],
            "generation_tokens": usage["completion_tokens"],
            **usage["surelock"],
        }
    return {name: record.number if name == "row" else line.get(name) for name in COLUMNS}


@contextmanager
def _json_lines(file: BinaryIO) -> Iterator[Write]:
    def write(record: Record) -> None:
        file.write(orjson.dumps(record.line) + b"\n")

    yield write


class _Encoded:
    """What a csv writer writes to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode())


@contextmanager
def _csv(file: BinaryIO) -> Iterator[Write]:
    table = csv.DictWriter(_Encoded(file), COLUMNS, lineterminator="\n")
    table.writeheader()

    def write(record: Record) -> None:
        row = cells(record)
        table.writerow(row | {"notes": orjson.dumps(row["notes"]).decode() if row["notes"] else None})

    yield write


@contextmanager
def _parquet(file: BinaryIO) -> Iterator[Write]:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    kinds = {
        **dict.fromkeys(COLUMNS, arrow.int64()),
        **dict.fromkeys(("custom_id", "text", "finish_reason"), arrow.string()),
        **dict.fromkeys(("active_ratio", "flops_ratio"), arrow.float64()),
        "notes": arrow.list_(arrow.string()),
    }
    schema = arrow.schema(list(kinds.items()))
    waiting: list[dict[str, Any]] = []
    with parquet.ParquetWriter(file, schema) as table:

        def write(record: Record) -> None:
            waiting.append(cells(record))
            if len(waiting) == ROWS_PER_GROUP:
                write_group()

        def write_group() -> None:
            table.write_table(arrow.Table.from_pylist(waiting, schema))
            waiting.clear()

        yield write
        # A table without rows has its columns all the same.
        if waiting:
            write_group()


WRITERS: Final[dict[str, Callable[[BinaryIO], AbstractContextManager[Write]]]] = {
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}


def write_output(folder: JobFolder, journal: Journal) -> None:
    """Write the rows in the order of the input: the output, and beside it the rows that failed, if any.

    Doing it twice gives the same files.

    Raises:
        JobError: they cannot be written; what is there stays.
    """
    if not journal.totals.num_failed:
        remove(folder.errors)
    # The output, which says that the job is complete, is renamed last.
    with ExitStack() as files:
        output = files.enter_context(replacing(folder.output))
        write = write_failed = files.enter_context(writing(output, folder.output))
        if journal.totals.num_failed:
            errors = files.enter_context(replacing(folder.errors))
            write_failed = files.enter_context(writing(errors, folder.errors))
        for record in journal.records():
            (write_failed if record.failed else write)(record)
