"""Names for locking rules, at a threshold of one's choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final

from surelock.errors import ParameterError, shown
from surelock.params import LockParams

NO_LOCK: Final = "none"
DEFAULT_RULES: Final = (NO_LOCK, "default", "paper")
# Taken apart, the paper's rule is `literal` and the confidence gate. `patient` asks for one visible forward more than
# `permanent`, `always` for no stability at all. Of them the default alone has a refresh.
_MAKERS: Final[Mapping[str, Callable[..., LockParams]]] = MappingProxyType(
    {
        "default": LockParams,
        "permanent": LockParams.permanent,
        "paper": LockParams.paper,
        "literal": partial(LockParams, min_visible_steps=0, refresh=None),
        "patient": partial(LockParams, min_visible_steps=2, refresh=None),
        "always": partial(LockParams, kl_threshold=1e9, refresh=None),
    }
)


def parse_rule(text: str) -> LockParams | None:
    """The rule a name stands for; all but `none` with a KL threshold if wanted, as in `paper@5e-3`.

    Raises:
        ParameterError: there is no such rule, or the threshold is no number.
    """
    name, separator, threshold = text.partition("@")
    if text == NO_LOCK:
        return None
    if name not in _MAKERS:
        raise ParameterError(
            f"the rule is {shown(text)}; use none, {', '.join(_MAKERS)}, or with a threshold paper@5e-3"
        )
    if not separator:
        return _MAKERS[name]()
    try:
        return _MAKERS[name](kl_threshold=float(threshold))
    except ValueError as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(
            f"the rule is {shown(text)}; what follows @ must be a KL threshold in nats, as in {name}@5e-3"
        ) from None


def parse_rules(texts: Sequence[str]) -> dict[str, LockParams | None]:
    """Each rule by its text, no lock always among them and first: it is what the others are compared with.

    Raises:
        ParameterError: there is no such rule.
    """
    return {NO_LOCK: None} | {text: parse_rule(text) for text in texts}


def check_rules(rules: Mapping[str, LockParams | None]) -> None:
    """Raise ParameterError unless no lock comes first."""
    if next(iter(rules), None) != NO_LOCK:
        raise ParameterError(f"the first rule must be {NO_LOCK}: the others are compared with it")
