"""From a row to what is to be done with it."""

from __future__ import annotations

from surelock.batch.openai_row import form_of, is_openai_row, read_openai_row
from surelock.batch.plain_row import read_plain_row
from surelock.batch.row import Row
from surelock.batch.task import Defaults, Failure, Form, Task, check_name
from surelock.errors import ParameterError, PromptError, shown


def read_task(row: Row, defaults: Defaults, *, twin: int | None = None) -> Task | Failure:
    """The task of a row, or what is wrong with it.

    Args:
        twin: number of an earlier row with the same custom_id.
    """
    form: Form = "plain"
    name = None
    try:
        if row.fault is not None:
            raise PromptError(row.fault)
        is_openai = is_openai_row(row.values)
        form = form_of(row.values) if is_openai else "plain"
        name = check_name(row.values)
        if twin is not None:
            raise ParameterError(f"custom_id {shown(name)} is also that of row {twin}; give each row its own")
        return read_openai_row(row, defaults) if is_openai else read_plain_row(row, defaults)
    except (ParameterError, PromptError) as error:
        return Failure(row=row, form=form, name=name, error=error)
