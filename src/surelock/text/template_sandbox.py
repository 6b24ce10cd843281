"""The jinja2 that chat templates are rendered in: the dialect of transformers, of which only a part is allowed.

Everything whose cost depends on data is counted before it is done, in units of about a microsecond or eight characters
(`template_work.py`), and a rendering may spend a fixed number of units. What is not listed is refused.
"""

from __future__ import annotations

from typing import Any, Final

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes as nodes
import jinja2.runtime
import jinja2.sandbox

from surelock.errors import shown
from surelock.text.template_work import (
    CHARACTERS_PER_UNIT,
    MAX_ESCAPE,
    METER,
    METHODS,
    Meter,
    counted_filter,
    counted_strftime,
    counted_test,
    size,
    spend,
    weigh,
    weigh_method,
    weigh_shallow,
    weighed,
    weighed_container,
    weighed_part,
)

# Published templates have up to 20 KB. A template of this many parts takes a second to compile.
MAX_SOURCE: Final = 1 << 16
MAX_NODES: Final = 10_000
MAX_DEPTH: Final = 100

_STATEMENTS: Final = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Break, nodes.Continue, nodes.Macro,
    nodes.CallBlock, nodes.FilterBlock, nodes.With, nodes.Scope, nodes.Assign, nodes.AssignBlock, nodes.ExprStmt,
    nodes.NSRef,
)  # fmt: skip
_EXPRESSIONS: Final = (
    nodes.Name, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr,
    nodes.Filter, nodes.Test, nodes.Call, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Concat, nodes.Compare,
    nodes.Operand, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.And, nodes.Or,
    nodes.Not, nodes.Neg, nodes.Pos, nodes.ExtensionAttribute,
)  # fmt: skip
_ALLOWED: Final = frozenset({*_STATEMENTS, *_EXPRESSIONS})
# Run any number of times, or not at all, so that each run is counted where it begins.
_BODIES: Final[dict[type[nodes.Node], tuple[str, ...]]] = {
    nodes.If: ("body", "else_"),
    nodes.For: ("body", "else_"),
    nodes.Macro: ("body",),
    nodes.CallBlock: ("body",),
}

_GLOBALS: Final = frozenset({"range", "dict", "namespace", "raise_exception", "strftime_now"})
# Names that no template can write, of the filters that count.
_SPEND: Final = "counted work"
_WEIGH: Final = "weighed"
_CONTAINER: Final = "weighed container"
_PART: Final = "weighed part"


def render(template: jinja2.Template, variables: dict[str, Any], *, work: int, max_characters: int) -> str:
    """What a template of an `Environment` writes.

    Raises:
        Exception: a template can fail in any way Python can; SecurityError if it takes more work, writes more
            characters or does what is not allowed.
    """
    pieces, num_characters = [], 0
    token = METER.set(Meter(work))
    try:
        for piece in template.generate(variables):
            num_characters += len(piece)
            if num_characters > max_characters:
                raise jinja2.exceptions.SecurityError(f"it writes more than {max_characters} characters")
            pieces.append(piece)
    finally:
        METER.reset(token)
    return "".join(pieces)


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The allowed part of the dialect of transformers."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%"})

    def __init__(self) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        dialect = _compile_jinja_template("").environment
        super().__init__(
            trim_blocks=dialect.trim_blocks,
            lstrip_blocks=dialect.lstrip_blocks,
            extensions=[type(extension) for extension in dialect.extensions.values()],
            # Would compute constant expressions before anything counts.
            optimized=False,
        )
        self.globals = {name: dialect.globals[name] for name in _GLOBALS}
        self.globals["strftime_now"] = counted_strftime(dialect.globals["strftime_now"])
        self._functions = tuple(self.globals.values())
        self.filters = {name: counted_filter(name, function) for name, function in dialect.filters.items()}
        self.filters |= {_SPEND: spend, _WEIGH: weighed, _CONTAINER: weighed_container, _PART: weighed_part}
        self.tests = {name: counted_test(name, function) for name, function in dialect.tests.items()}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MAX_SOURCE:
            raise jinja2.exceptions.SecurityError(f"it has {len(source)} characters; the limit is {MAX_SOURCE}")
        template = super()._parse(source, name, filename)
        _Counter(self).count_body(template, "body")
        return template

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        for value in (left, right):
            weigh_shallow(value)
        if isinstance(left, int | float) and isinstance(right, int | float):
            pass
        elif operator == "*":
            count, items = (left, right) if isinstance(left, int) else (right, left)
            spend(size(items) * max(count, 0) if isinstance(count, int) else 0)
        elif operator == "+":
            escaped = hasattr(left, "__html__") or hasattr(right, "__html__")
            spend((size(left) + size(right)) * MAX_ESCAPE if escaped else 0)
        elif not isinstance(left, jinja2.Undefined) and not isinstance(right, jinja2.Undefined):
            raise jinja2.exceptions.SecurityError(f"{operator} is only allowed between numbers")
        return super().call_binop(context, operator, left, right)

    # Names as in the class above, so that a template's keyword arguments cannot collide with them.
    def call(__self, __context: jinja2.runtime.Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        spend(1 + len(args) + len(kwargs))
        owner = getattr(__obj, "__self__", None)
        if any(__obj is function for function in __self._functions):
            for value in args:
                weigh(value)
        elif any(isinstance(owner, kind) and __obj.__name__ in names for kind, names in METHODS.items()):
            weigh_method(owner, __obj.__name__, [*args, *kwargs.values()])
        elif not isinstance(owner, jinja2.ext.Extension) and not isinstance(
            __obj, jinja2.runtime.Macro | jinja2.Undefined
        ):
            called = getattr(__obj, "__name__", None) or type(__obj).__name__
            raise jinja2.exceptions.SecurityError(f"calling {shown(called)} is not allowed")
        return super().call(__context, __obj, *args, **kwargs)


class _Counter:
    """Refuses what is not allowed in a parsed template, and adds what counts its work."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._num_nodes = 0

    def count_body(self, parent: nodes.Node, field: str, depth: int = 0) -> None:
        """Let a list of statements begin with counting what it does once."""
        body: list[nodes.Node] = getattr(parent, field)
        cost = 1 + sum(self._count(child, depth + 1) for child in body)
        # An empty body of a loop runs, too.
        if body or field == "body":
            counted = self._filter(nodes.Const(cost), _SPEND, parent)
            body.insert(0, nodes.ExprStmt(counted, lineno=parent.lineno, environment=self._environment))

    def _count(self, node: nodes.Node, depth: int) -> int:
        """The units of a node and of those below it that are not in bodies of their own."""
        self._num_nodes += 1
        kind = type(node)
        if self._num_nodes > MAX_NODES or depth > MAX_DEPTH:
            raise jinja2.exceptions.SecurityError(
                f"it has more than {MAX_NODES} parts, or more than {MAX_DEPTH} of them inside each other"
            )
        if kind not in _ALLOWED or (isinstance(node, nodes.For) and node.recursive):
            raise jinja2.exceptions.SecurityError(f"{kind.__name__} in line {node.lineno} is not allowed")
        if isinstance(node, nodes.Name) and node.name == "self":
            raise jinja2.exceptions.SecurityError(f"self in line {node.lineno} is not allowed")
        bodies = _BODIES.get(kind, ())
        cost = 1
        for field, value in node.iter_fields(exclude=bodies):
            if isinstance(value, nodes.Node):
                cost += self._count(value, depth + 1)
                setattr(node, field, self._weighed(node, field, value))
            elif isinstance(value, list):
                cost += sum(self._count(item, depth + 1) for item in value if isinstance(item, nodes.Node))
                value[:] = [self._weighed(node, field, item) for item in value]
            elif isinstance(value, str):
                cost += len(value) // CHARACTERS_PER_UNIT
        for field in bodies:
            self.count_body(node, field, depth)
        if isinstance(node, nodes.For) and node.test is not None:
            # Evaluated for each item, the ones that it leaves out too.
            node.test = nodes.And(self._filter(nodes.Const(cost), _SPEND, node), node.test, lineno=node.lineno)
        return cost

    def _weighed(self, parent: nodes.Node, field: str, value: Any) -> Any:
        """The expression, weighed when it is computed if the cost of what its parent does with it depends on that."""
        if not isinstance(value, nodes.Expr) or isinstance(value, nodes.TemplateData):
            return value
        if isinstance(parent, nodes.Operand):
            return self._filter(value, _CONTAINER if parent.op in ("in", "notin") else _WEIGH, parent)
        if isinstance(parent, nodes.Output | nodes.Concat | nodes.Compare):
            return self._filter(value, _WEIGH, parent)
        if isinstance(parent, nodes.Pair) and field == "key" and not isinstance(value, nodes.Const):
            return self._filter(value, _WEIGH, parent)
        if isinstance(parent, nodes.Getitem) and field == "arg" and not isinstance(value, nodes.Const | nodes.Slice):
            return self._filter(value, _WEIGH, parent)
        if isinstance(value, nodes.Getitem) and isinstance(value.arg, nodes.Slice):
            return self._filter(value, _PART, parent)
        return value

    def _filter(self, value: nodes.Expr, name: str, beside: nodes.Node) -> nodes.Filter:
        counted = nodes.Filter(value, name, [], [], None, None, lineno=beside.lineno)
        counted.set_environment(self._environment)
        return counted
