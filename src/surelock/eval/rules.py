"""Names for locking rules: none, default and paper, at a threshold of one's choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from surelock.errors import ParameterError, shown
from surelock.params import LockParams

NO_LOCK: Final = "none"
DEFAULT_RULES: Final = (NO_LOCK, "default", "paper")


def parse_rule(text: str) -> LockParams | None:
    """The rule a name stands for: `none`, `default` or `paper`, the last two with a KL threshold as in `paper@5e-3`.

    Raises:
        ParameterError: there is no such rule, or the threshold is no number.
    """
    name, separator, threshold = text.partition("@")
    makers: dict[str, Callable[..., LockParams]] = {"default": LockParams, "paper": LockParams.paper}
    if text == NO_LOCK:
        return None
    if name not in makers:
        raise ParameterError(f"the rule is {shown(text)}; use none, default or paper, or with a threshold paper@5e-3")
    if not separator:
        return makers[name]()
    try:
        return makers[name](kl_threshold=float(threshold))
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
