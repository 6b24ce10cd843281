"""Plain rows: a prompt, and columns named like parameters."""

from __future__ import annotations

from typing import Final

from surelock.batch.parameters import PARAMETERS, sampling_params
from surelock.batch.row import Row
from surelock.batch.task import Defaults, Task, check_name
from surelock.errors import ParameterError, PromptError, shown
from surelock.openai_fields import suggestion
from surelock.prompts import CANVAS_KEY, TOKEN_IDS_KEY

_MESSAGES: Final = "messages"
# Other columns are welcome, so only one that is almost a parameter is refused.
_ALIKE: Final = 0.8


def read_plain_row(row: Row, defaults: Defaults) -> Task:
    """The task of a row. Columns that are no parameters are left alone, unless one looks like a misspelt parameter.

    Raises:
        ParameterError, PromptError: the row has no prompt or several, or a parameter is out of its limits.
    """
    values, column = row.values, defaults.prompt_column
    name = check_name(values)
    contents = [key for key in (column, _MESSAGES, TOKEN_IDS_KEY, CANVAS_KEY) if values.get(key) is not None]
    if len(contents) != 1:
        problem = f"has {' and '.join(contents)}" if contents else f"has no {column}"
        raise PromptError(
            f"the row {problem}; it must have exactly one of {column}, {_MESSAGES}, {TOKEN_IDS_KEY}, {CANVAS_KEY} "
            "(--prompt-column names the first)"
        )
    known = {column, _MESSAGES, TOKEN_IDS_KEY, CANVAS_KEY, "custom_id", *PARAMETERS}
    for key in values:
        if key not in known and (hint := suggestion(key, PARAMETERS, cutoff=_ALIKE)):
            raise ParameterError(f"the row has the column {shown(key)}{hint} Rename it")
    given = {key: value for key, value in values.items() if key in PARAMETERS and key != column}
    params = sampling_params(given, defaults.params, seed=row.seed(defaults.seed))
    (key,) = contents
    content = values[key]
    if key == _MESSAGES:
        return Task(row=row, form="plain", name=name, params=params, messages=content)
    if key == column and not isinstance(content, str):
        raise PromptError(f"{column} is {shown(content)}; it must be a string")
    return Task(row=row, form="plain", name=name, params=params, prompt=content if key == column else {key: content})
