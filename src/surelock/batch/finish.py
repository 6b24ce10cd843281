"""From a complete journal to the files users asked for."""

from __future__ import annotations

from contextlib import ExitStack

import orjson

from surelock.batch.atomic import remove, replacing
from surelock.batch.folder import JobFolder
from surelock.batch.journal import Journal


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
        errors = files.enter_context(replacing(folder.errors)) if journal.totals.num_failed else output
        for record in journal.records():
            (errors if record.failed else output).write(orjson.dumps(record.line) + b"\n")
