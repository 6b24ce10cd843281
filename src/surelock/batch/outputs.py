"""From a complete journal to the files users asked for: JSON lines as the records have them, or tables."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson
from pydantic import BaseModel

from surelock.batch.carried import Carried, carried_columns
from surelock.batch.folder import JobFolder, remove, replacing
from surelock.batch.input import Scan
from surelock.batch.journal import Journal
from surelock.batch.records import Record
from surelock.errors import JobError, ParameterError


class Cells(BaseModel):
    """An answer in a table; the columns of the input follow."""

    row: int
    custom_id: str | None
    text: str
    finish_reason: str
    prompt_tokens: int
    generation_tokens: int
    steps: int
    active_ratio: float
    flops_ratio: float
    seed: int | None
    notes: list[str]


COLUMNS: Final = tuple(Cells.model_fields)
# Fixed, so that the same rows are the same bytes however often a job was stopped.
ROWS_PER_GROUP: Final = 1024
BYTES_PER_GROUP: Final = 1 << 26

Write = Callable[[Record], None]


def check_output_kind(path: Path) -> None:
    """Raise ParameterError for an output that could not be written, before any row is run."""
    if path.suffix not in WRITERS:
        raise ParameterError(f"--output {path} ends with none of {', '.join(WRITERS)}; rename it")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ParameterError(
            f"--output {path} is Parquet, which needs pyarrow: pip install 'surelock[parquet]', or choose .csv"
        )


def writing(file: BinaryIO, path: Path, carried: Carried | None = None) -> AbstractContextManager[Write]:
    """What writes records in the order of their rows, with the carried columns where `path` is a table.

    The file is whole when the block ends.
    """
    return WRITERS[path.suffix](file, carried)


def check_carried(found: Scan, output: Path) -> None:
    """Refuse columns of the input that could not be carried into the output, before any row is run."""
    if output.suffix != ".jsonl":
        with writing(BytesIO(), output, carried_columns(found, COLUMNS)):
            pass


def cells(record: Record) -> dict[str, Any]:
    """An answered row by `COLUMNS`, whichever form its line has; JobError if the line is no answer."""
    line: dict[str, Any] = record.line
    try:
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
        own = {"row": record.number} | {name: line[name] for name in COLUMNS[1:]}
        return Cells.model_validate(own, strict=True).model_dump()
    except (LookupError, TypeError, ValueError):
        raise JobError(
            f"the journal's record of row {record.number} is no answer of this version; start over with --force-new"
        ) from None


@contextmanager
def _json_lines(file: BinaryIO, carried: Carried | None) -> Iterator[Write]:
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
def _csv(file: BinaryIO, carried: Carried | None) -> Iterator[Write]:
    table = csv.writer(_Encoded(file), lineterminator="\n")
    table.writerow([*COLUMNS, *(carried.names if carried else ())])

    def write(record: Record) -> None:
        row = cells(record)
        notes = orjson.dumps(row["notes"]).decode() if row["notes"] else None
        table.writerow([*(row | {"notes": notes}).values(), *(carried.texts(record.number) if carried else ())])

    yield write


@contextmanager
def _parquet(file: BinaryIO, carried: Carried | None) -> Iterator[Write]:
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
    with parquet.ParquetWriter(file, arrow.schema([*schema, *(carried.schema if carried else ())])) as table:

        def write(record: Record) -> None:
            waiting.append(cells(record))
            num_bytes = carried.add(record.number) if carried else 0
            if len(waiting) == ROWS_PER_GROUP or num_bytes >= BYTES_PER_GROUP:
                write_group()

        def write_group() -> None:
            group = arrow.Table.from_pylist(waiting, schema)
            own = carried.table() if carried else group.select([])
            for name, column in zip(own.column_names, own.columns, strict=True):
                group = group.append_column(name, column)
            table.write_table(group)
            waiting.clear()

        yield write
        # A table without rows has its columns all the same.
        if waiting:
            write_group()


WRITERS: Final[dict[str, Callable[[BinaryIO, Carried | None], AbstractContextManager[Write]]]] = {
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}


def write_output(folder: JobFolder, journal: Journal, found: Scan) -> None:
    """Write the rows in the order of the input: the output, and beside it the rows that failed, if any.

    Doing it twice gives the same files.

    Raises:
        JobError: they cannot be written, or the input is no longer the one that was scanned; what is there stays.
    """
    carried = None
    if folder.output.suffix != ".jsonl":
        found.check_unchanged()
        carried = carried_columns(found, COLUMNS)
    if not journal.totals.num_failed:
        remove(folder.errors)
    # The output, which says that the job is complete, is renamed last.
    with ExitStack() as files:
        output = files.enter_context(replacing(folder.output))
        write = write_failed = files.enter_context(writing(output, folder.output, carried))
        if journal.totals.num_failed:
            errors = files.enter_context(replacing(folder.errors))
            write_failed = files.enter_context(writing(errors, folder.errors))
        for record in journal.records():
            (write_failed if record.failed else write)(record)
