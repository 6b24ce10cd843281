"""What the operations of a chat template cost, by the values they are given: counted before it is done.

A unit is about a microsecond, or eight characters.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Final

import jinja2.exceptions
import jinja2.runtime
import jinja2.utils

MAX_WORK: Final = 1 << 18

CHARACTERS_PER_UNIT: Final = 8
_MAX_NESTING: Final = 32
_MAX_INTEGER_BITS: Final = 1024
_MAX_INDENTATION: Final = 16
# Escaping makes five characters of a quotation mark, `\uXXXX` makes twelve of one beyond the basic plane.
MAX_ESCAPE: Final = 12

# fmt: off
METHODS: Final = {
    str: frozenset({
        "startswith", "endswith", "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "partition", "replace",
        "upper", "lower", "title", "capitalize", "find", "index", "count", "join", "removeprefix", "removesuffix",
        "isdigit", "isalpha", "isalnum", "isspace", "isupper", "islower",
    }),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"index", "count"}),
    tuple: frozenset({"index", "count"}),
}
_PLAIN_TESTS: Final = frozenset({
    "boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping", "none", "number", "sameas",
    "sequence", "string", "true", "undefined",
})
_NUMBER_TESTS: Final = frozenset({"divisibleby", "even", "odd"})
_WEIGHED_TESTS: Final = frozenset({
    "==", "!=", "<", "<=", ">", ">=", "eq", "equalto", "ne", "lt", "lessthan", "le", "gt", "greaterthan", "ge", "in",
    "lower", "upper",
})
# fmt: on
_COLLECTIONS: Final = list | tuple | dict | range | KeysView | ItemsView | ValuesView


class Meter:
    """What is left of a rendering's work."""

    def __init__(self, work: int) -> None:
        self._work = self._left = work

    def spend(self, units: int) -> None:
        """Count units of work; raises SecurityError if fewer are left."""
        self._left -= units
        if self._left < 0:
            raise jinja2.exceptions.SecurityError(f"it takes more than {self._work} units of work")


METER: Final[contextvars.ContextVar[Meter]] = contextvars.ContextVar("meter")


def spend(units: int) -> bool:
    """Count units of work of the rendering under way; raises SecurityError if fewer are left, else returns True."""
    # At least none, as a template can apply it to an item of its own, with `map`.
    METER.get().spend(max(units, 0))
    return True


def size(value: Any) -> int:
    """The units of a copy of a string or collection, 0 for what is neither."""
    if isinstance(value, str):
        return 1 + len(value) // CHARACTERS_PER_UNIT * (MAX_ESCAPE if hasattr(value, "__html__") else 1)
    return len(value) if isinstance(value, _COLLECTIONS) else 0


def weigh_shallow(value: Any) -> None:
    """Count a copy of the value."""
    if isinstance(value, jinja2.utils.Namespace | jinja2.runtime.LoopContext):
        raise jinja2.exceptions.SecurityError("writing, comparing or converting a namespace or loop is not allowed")
    if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
        raise jinja2.exceptions.SecurityError(f"an integer has more than {_MAX_INTEGER_BITS} bits")
    spend(1 + size(value))


def weigh(value: Any, depth: int = 0) -> int:
    """Count the value and all that is in it, each time it is met: what comparing, hashing or writing it takes."""
    weigh_shallow(value)
    if depth > _MAX_NESTING:
        raise jinja2.exceptions.SecurityError(f"a value has more than {_MAX_NESTING} levels")
    units = 1 + size(value)
    if isinstance(value, dict):
        units += sum(weigh(key, depth + 1) for key in value)
        units += sum(weigh(item, depth + 1) for item in value.values())
    elif isinstance(value, _COLLECTIONS) and not isinstance(value, range):
        units += sum(weigh(item, depth + 1) for item in value)
    return units


def weigh_method(owner: Any, name: str, args: list[Any]) -> None:
    """Count a call of a method of `METHODS`."""
    for value in args:
        weigh(value)
    if not isinstance(owner, dict):
        weigh(owner)
    if name in ("strip", "lstrip", "rstrip", "rsplit"):
        _count_stripping(owner, args)
    elif name == "replace":
        _count_replacing(owner, args)
    elif name == "join":
        _count_joining(args[0] if args else (), owner)
    elif name in ("split", "splitlines"):
        separator = next((value for value in args if isinstance(value, str) and value), None)
        spend(len(owner) if separator is None else owner.count(separator))


def _count_stripping(text: Any, args: list[Any]) -> None:
    """It looks for each character among those to strip, or for a separator from each character."""
    spend(size(text) * max((len(value) for value in args if isinstance(value, str)), default=0))


def _count_replacing(text: Any, args: list[Any]) -> None:
    old, new = (str(value) for value in (*args, "", "")[:2])
    spend(str(text).count(old) * len(new) // CHARACTERS_PER_UNIT * MAX_ESCAPE)


def _count_joining(items: Any, separator: Any) -> None:
    spend(_num_items(items) * size(str(separator)))


def _num_items(value: Any) -> int:
    return len(value) if isinstance(value, _COLLECTIONS | str) else 0


def counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of the dialect that counts its work first. Iterators become lists, whose items are counted."""
    count = _FILTERS.get(name)

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        if count is None:
            raise jinja2.exceptions.SecurityError(f"the filter {name} is not allowed")
        value, *others = args[1:] if hasattr(function, "jinja_pass_arg") else args
        count(value, [*others, *kwargs.values()])
        result = function(*args, **kwargs)
        return list(result) if isinstance(result, Iterator) else result

    return counted


def _plain(value: Any, args: list[Any]) -> None:
    spend(1)


def _whole(value: Any, args: list[Any]) -> None:
    for item in (value, *args):
        weigh(item)


def _each_item(value: Any, args: list[Any]) -> None:
    """Also an attribute's name is taken apart for each item."""
    weigh_shallow(value)
    spend((1 + _num_items(value)) * (1 + sum(weigh(item) for item in args)))


def _sorted(value: Any, args: list[Any]) -> None:
    _each_item(value, args)
    # The binary logarithm of as many items as there is work.
    spend(weigh(value) * MAX_WORK.bit_length())


def _trim(value: Any, args: list[Any]) -> None:
    _whole(value, args)
    _count_stripping(value, args)


def _replace(value: Any, args: list[Any]) -> None:
    _whole(value, args)
    _count_replacing(value, args)


def _join(value: Any, args: list[Any]) -> None:
    _each_item(value, args)
    weigh(value)
    _count_joining(value, args[0] if args else "")


def _indent(value: Any, args: list[Any]) -> None:
    _whole(value, args)
    spend(len(str(value).splitlines()) * _indentation(args))


def _tojson(value: Any, args: list[Any]) -> None:
    spend(weigh(value) * MAX_ESCAPE * (1 + _MAX_NESTING * _indentation(args)))


def _indentation(args: list[Any]) -> int:
    """The units of a line's indentation, or of a separator."""
    widths = [value if isinstance(value, int) else sum(map(len, map(str, value))) for value in args if value]
    if max(widths, default=0) > _MAX_INDENTATION:
        raise jinja2.exceptions.SecurityError(f"an indentation may have {_MAX_INDENTATION} characters")
    return 1 + max(widths) // CHARACTERS_PER_UNIT if widths else 0


_FILTERS: Final[dict[str, Callable[[Any, list[Any]], None]]] = {
    **dict.fromkeys(("default", "d", "length", "count", "first", "last"), _plain),
    **dict.fromkeys(("abs", "capitalize", "float", "int", "lower", "safe", "string", "title", "upper"), _whole),
    **dict.fromkeys(("items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr"), _each_item),
    **dict.fromkeys(("dictsort", "sort", "unique"), _sorted),
    "trim": _trim,
    "replace": _replace,
    "join": _join,
    "indent": _indent,
    "tojson": _tojson,
}


def counted_test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A test of the dialect that counts its work first."""

    @functools.wraps(function)
    def counted(value: Any, *args: Any) -> Any:
        # Of a string, `odd` would make formatting.
        if name in _WEIGHED_TESTS or (name in _NUMBER_TESTS and not isinstance(value, str)):
            _whole(value, list(args))
        elif name not in _PLAIN_TESTS:
            raise jinja2.exceptions.SecurityError(f"the test {name} of {type(value).__name__} is not allowed")
        return function(value, *args)

    return counted


def counted_strftime(function: Callable[[str], str]) -> Callable[[str], str]:
    """The function of the dialect that writes the time, which counts its work first."""

    def strftime_now(format: str) -> str:
        # Its result can be 256 times as long.
        spend(size(format) * 256)
        return function(format)

    return strftime_now


def weighed(value: Any) -> Any:
    """The value, after `weigh`."""
    weigh(value)
    return value


def weighed_container(value: Any) -> Any:
    """The value that `in` looks into: in some it does not look at each item."""
    if isinstance(value, dict | range | KeysView):
        spend(1)
    else:
        weigh(value)
    return value


def weighed_part(value: Any) -> Any:
    """The value, after `weigh_shallow`."""
    weigh_shallow(value)
    return value
