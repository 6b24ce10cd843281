"""From a complete journal to the files users asked for."""

from __future__ import annotations

from contextlib import ExitStack

from surelock.batch.atomic import remove, replacing
from surelock.batch.folder import JobFolder
from surelock.batch.journal import Journal
from surelock.batch.outputs import writing


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
