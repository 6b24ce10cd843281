"""What schemathesis checks besides its own: hooks of `st run` (README.md), also for `test_schema.py`.

JSON Schema cannot say how many tokens a text has, nor what a product or a sum of fields may be. A body within the
schema may be refused for these, with a code that says so, and a `timeout` may be too short.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

with warnings.catch_warnings():
    # Of libraries it imports.
    warnings.simplefilter("ignore")
    import schemathesis

UNSAID: Final = {"context_length_exceeded", "too_many_choices"}


@schemathesis.check
def valid_bodies_are_answered(ctx: Any, response: Any, case: Any) -> None:
    """In place of `positive_data_acceptance` and `not_a_server_error`."""
    status = response.status_code
    body = case.body if isinstance(case.body, dict) else {}
    code = response.json()["error"]["code"] if status >= 400 and response.content else None
    if status >= 500:
        assert code == "deadline_exceeded", response.text
        assert body.get("timeout") is not None, "a timeout that nobody asked for"
    elif case.meta.generation.mode.is_positive and status >= 400:
        is_other_model = status == 404 and "model" in case.path_parameters
        assert is_other_model or (status == 400 and code in UNSAID), response.text
