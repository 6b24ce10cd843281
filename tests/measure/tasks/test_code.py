"""Programs of a model are judged by what they return, and can do no harm."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surelock.measure.tasks import Problem, Verdict, check
from surelock.measure.tasks.program import ProgramError, allowed_function, parse_program, run_function

# Numbers above 3, 2 added to each.
META = {"condition": 0, "bound": 3, "change": 0, "operand": 2, "result": 0, "loop": True, "name": "pick"}
LOOP = "def pick(xs):\n    out = []\n    for x in xs:\n        if x > 3:\n            out.append(x + 2)\n    return out"

RIGHT = Verdict(final=True, steps=True, form=True)
NO_LOOP = Verdict(final=True, steps=False, form=True)
WRONG = Verdict(final=False, steps=False, form=True)
UNREADABLE = Verdict(final=False, steps=False, form=False)


def pick(*lines: str) -> str:
    return "\n    ".join(["def pick(xs):", *lines])


def verdict(text: str, **meta: Any) -> Verdict:
    return check(Problem("code", 3, "", "", META | meta), text)


def result_of(text: str, numbers: list[int]) -> Any:
    tree = parse_program(text)
    assert tree is not None
    function = allowed_function(tree, "pick")
    assert function is not None
    return run_function(function, numbers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LOOP, RIGHT),
        (LOOP.replace("x > 3", "not x <= 3"), RIGHT),
        (LOOP.replace("x > 3", "x >= 4 and 3 < x"), RIGHT),
        (LOOP.replace("x > 3", "x > 3 or x == 4"), RIGHT),
        (LOOP.replace("out.append(x + 2)", "out += [x + 2]"), RIGHT),
        (LOOP.replace("x + 2", "x - -2"), RIGHT),
        (pick("return [x + 2 for x in xs if x > 3]"), NO_LOOP),
        (LOOP.replace("x > 3", "x > 4"), WRONG),
        (LOOP.replace("x + 2", "x"), WRONG),
        (LOOP.replace("pick", "take"), WRONG),
        (LOOP.replace("return out", "return sum(out)"), WRONG),
        (LOOP.replace("    return out", "    out"), WRONG),
        (LOOP.replace("return out", "return result"), WRONG),
        (LOOP.replace("out = []", "total = 0"), WRONG),
        (LOOP + "\nprint(1)", WRONG),
        ("x + 2", WRONG),
        ("", WRONG),
        (LOOP.replace("return", "return return"), UNREADABLE),
        (LOOP.replace("        if", "   if"), UNREADABLE),
        ("(" * 5_000, UNREADABLE),
        ("\0", UNREADABLE),
    ],
)
def test_verdicts(text: str, expected: Verdict) -> None:
    assert verdict(text) == expected


def test_a_loop_is_asked_for_only_where_the_question_says_so() -> None:
    assert verdict(pick("return [x + 2 for x in xs if x > 3]"), loop=False) == RIGHT
    assert verdict(LOOP, loop=False) == RIGHT


@pytest.mark.parametrize(
    ("result", "end"),
    [(1, "sum(out)"), (2, "len(out)"), (3, "max(out, default=0)"), (3, "max(out + [0])"), (3, "max([0] + out)")],
)
def test_results(result: int, end: str) -> None:
    assert verdict(LOOP.replace("return out", f"return {end}"), result=result) == RIGHT
    assert verdict(LOOP, result=result) == WRONG


@pytest.mark.parametrize(
    "text",
    [
        pick("import os", "return []"),
        pick("return __import__(0)"),
        pick("return xs.__class__"),
        pick("return ().__class__"),
        pick("while 1:", "    out = 1"),
        pick("return [y for x in xs for y in xs for z in xs]"),
        pick("for x in xs:", "    xs.append(x)"),
        pick("for x in xs:", "    xs += [x]"),
        pick("ys = xs", "return ys"),
        pick("return 9 ** 9"),
        pick("return 9 << 9"),
        pick("return 1000"),
        pick("return 'text'"),
        pick("return [x for x in out]"),
        pick("def inner(x):", "    return x"),
        pick("max = max(xs)", "return max"),
        pick("try:", "    return 1", "except:", "    return 2"),
        pick("return lambda: 0"),
        "@sum\ndef pick(xs):\n    return xs",
        "def pick(xs: sum):\n    return xs",
        "def pick(xs, *, k=3):\n    return xs",
        "def pick(xs=0):\n    return xs",
        "def pick(xs, /):\n    return xs",
        "def pick(*xs):\n    return xs",
        "def pick(xs, **ys):\n    return xs",
        "def pick(xs) -> sum:\n    return xs",
        "def pick():\n    return xs",
        pick("return [x + 2 async for x in xs if x > 3]"),
        pick("return await xs"),
        pick("async for x in xs:", "    x"),
        "class pick: pass",
        "async def pick(xs):\n    return xs",
    ],
)
def test_what_is_not_allowed_is_wrong_and_never_run(text: str) -> None:
    assert verdict(text) == WRONG
    tree = parse_program(text)
    assert tree is not None
    assert allowed_function(tree, "pick") is None


@pytest.mark.parametrize(
    "text",
    [
        pick("a = 9", "for x in xs:", "    a = a * a", "return a"),
        pick("a = 9", "for x in xs:", "    a *= a", "return a"),
        pick("out = [1]", "for x in xs:", "    out = out + out", "return out"),
        pick("out = [1]", "for x in xs:", "    out += out", "return out"),
        pick("return [1] * 999 * 999 * 999"),
        pick("out = []", "for x in xs:", "    out.append(out)", "return out"),
        pick("out = 1", "for x in xs:", "    out = [out, out]", "return out == out"),
        pick("out = max(xs, xs)", "for x in xs:", "    for y in xs:", "        out.append(y)", "return out"),
        pick("out = 1", "out.append(2)"),
        pick("return sum([[1], [2]], [])"),
        pick("return 1 // 0"),
        pick("return open(0)"),
        pick("return eval(0)"),
        pick("return pick(xs)"),
        pick("return max(xs, key=len)"),
        pick("return len(1)"),
        pick("[a] = [1]"),
    ],
)
def test_what_fails_grows_or_calls_others_ends_soon(text: str) -> None:
    assert verdict(text) == WRONG
    with pytest.raises(ProgramError):
        result_of(text, list(range(80)))


@pytest.mark.parametrize("depth", [50, 150, 500, 1_500, 5_000, 50_000])
def test_nesting_of_any_depth_is_wrong_only(depth: int) -> None:
    assert not verdict(pick(f"return {'-' * depth}1")).final
    assert not verdict(pick(f"return {'(' * depth}1{')' * depth}")).final
    assert not verdict(pick(f"return {'1 + ' * depth}1")).final
    assert not verdict(f"def pick(xs={'-' * depth}1):\n    return xs").final
    assert not verdict(f"def pick(xs: {'-' * depth}1):\n    return xs").final


def test_a_loop_over_another_name_of_its_argument_ends() -> None:
    text = pick("out = xs or xs", "for x in xs:", "    out.append(x)", "return len(out)")
    assert result_of(text, [1, 2, 3]) == 6


operators = st.sampled_from(["+", "-", "*", "//", "%", "&", "|", "^", "/", "and", "or"])
comparisons = st.sampled_from(["<", "<=", "==", "!=", ">", ">="])
expressions = st.recursive(
    st.sampled_from(["x", "y", "0", "1", "7", "True", "len(xs)", "sum(xs)", "max(xs, default=3)"]),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, operators, inner),
        st.builds("({} {} {} < {})".format, inner, comparisons, inner, inner),
        st.builds("({}{})".format, st.sampled_from(["-", "+", "~", "not "]), inner),
    ),
    max_leaves=8,
)


@given(expressions, expressions, expressions, st.lists(st.integers(0, 9), max_size=5))
def test_results_are_those_of_python(first: str, second: str, third: str, numbers: list[int]) -> None:
    text = pick(
        "y = 2",
        "out = [x for x in xs if x % 2 if y]",
        "for x in xs:",
        f"    if {first}:",
        f"        out.append({second})",
        "    elif x > 5:",
        f"        return {third}",
        "    else:",
        f"        y += {third}",
        "return out + [y]",
    )
    namespace: dict[str, Any] = {}
    exec(compile(ast.parse(text), "", "exec"), namespace)
    try:
        expected = namespace["pick"](list(numbers))
    except (ArithmeticError, TypeError):
        with pytest.raises(ProgramError):
            result_of(text, numbers)
    else:
        assert result_of(text, numbers) == expected
