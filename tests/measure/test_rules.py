from __future__ import annotations

import pytest

from surelock import LockParams
from surelock.errors import ParameterError
from surelock.measure.rules import parse_rule, parse_rules


def test_rules_by_name() -> None:
    assert parse_rule("none") is None
    assert parse_rule("default") == LockParams()
    assert parse_rule("permanent@1e-3") == LockParams.permanent(1e-3)
    assert parse_rule("paper") == LockParams.paper()
    assert parse_rule("paper@5e-3") == LockParams.paper(5e-3)
    assert parse_rule("default@0.01") == LockParams(kl_threshold=0.01)
    assert parse_rule("literal@5e-3") == LockParams(kl_threshold=5e-3, min_visible_steps=0, refresh=None)
    assert parse_rule("patient") == LockParams(min_visible_steps=2, refresh=None)
    assert parse_rule("always") == LockParams(kl_threshold=1e9, refresh=None)


def test_no_lock_comes_first() -> None:
    assert list(parse_rules(["paper", "none", "default"])) == ["none", "paper", "default"]
    assert parse_rules([]) == {"none": None}


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("best", "the rule is 'best'; use none, default, permanent, paper, literal"),
        ("none@1", "the rule is 'none@1'"),
        ("paper@", "what follows @ must be a KL threshold in nats, as in paper@5e-3"),
        ("default@x", "as in default@5e-3"),
        ("default@nan", "lock.kl_threshold is nan"),
    ],
)
def test_what_is_no_rule_is_refused(text: str, fragment: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse_rule(text)
    assert fragment in str(caught.value)
