"""A row's own parameters over the defaults of the job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from surelock.errors import ParameterError, shown
from surelock.openai_fields import suggestion
from surelock.params import LockParams, SamplingParams

# `allow_mask` exists for parity tests only.
PARAMETERS: Final = tuple(field.name for field in fields(SamplingParams) if field.name != "allow_mask")
_LOCK_FIELDS: Final = tuple(field.name for field in fields(LockParams))


def sampling_params(given: Mapping[str, Any], defaults: SamplingParams, *, seed: int) -> SamplingParams:
    """The job's defaults with what a row gives in their place.

    Args:
        given: some of `PARAMETERS`; null is not given. `stop` may be one string; `lock` is an object whose missing
            fields are the default's, or false for no locking.
        seed: of a row that gives none.

    Raises:
        ParameterError: a value is out of its limits.
    """
    values: dict[str, Any] = {"seed": seed} | {name: value for name, value in given.items() if value is not None}
    if isinstance(values.get("stop"), str):
        values["stop"] = (values["stop"],)
    if "lock" in values:
        values["lock"] = _lock_params(values["lock"], defaults.lock)
    return replace(defaults, **values)


def _lock_params(value: object, default: LockParams | None) -> LockParams | None:
    if value is False:
        return None
    if value is True:
        return default or LockParams()
    if not isinstance(value, Mapping):
        raise ParameterError(f"lock is {shown(value)}; it must be an object such as {{'kl_threshold': 5e-4}}, or false")
    for name in value:
        if name not in _LOCK_FIELDS:
            known = ", ".join(_LOCK_FIELDS)
            raise ParameterError(
                f"lock has the unknown field {shown(name)}{suggestion(str(name), _LOCK_FIELDS)} ({known})"
            )
    given = {name: own for name, own in value.items() if own is not None}
    return replace(default or LockParams(), **given)
