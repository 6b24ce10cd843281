"""Runs one small Python function that a model wrote, safely.

The function is walked as a syntax tree and never given to Python itself. It holds numbers and flat lists of numbers,
loops over its argument, at most one loop in another, and calls `sum`, `len`, `max` and `out.append`. So every call ends
soon and touches nothing, whatever was written.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

MAX_NUMBER: Final = 1 << 64
MAX_LIST_LENGTH: Final = 1_000
MAX_CONSTANT: Final = 999
MAX_LOOPS: Final = 2

_ARGUMENT: Final = "xs"
_RESULT_LIST: Final = "out"
# Allowed whatever is in them; the others are looked at one by one.
_NODES: Final = (
    *(ast.Return, ast.If, ast.Expr, ast.Call, ast.keyword, ast.Load, ast.Store, ast.List, ast.ListComp),
    *(ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
_BINARY: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.BitAnd: operator.and_,
}
_UNARY: Final[dict[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}
_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {"sum": sum, "len": len, "max": max}

_Variables = dict[str, Any]


class ProgramError(Exception):
    """The program failed, or made something too large."""


def parse_program(text: str) -> ast.Module | None:
    """The syntax tree of a text, or None where it is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        # The last two at brackets nested too deep.
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return None


def allowed_function(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    """The one function of a program, if it is `NAME(xs)` and keeps to the allowed syntax."""
    function = tree.body[0] if len(tree.body) == 1 else None
    if not isinstance(function, ast.FunctionDef) or function.name != name or not _is_plain(function):
        return None
    nodes = [node for statement in function.body for node in ast.walk(statement)]
    num_loops = sum(isinstance(node, ast.For | ast.comprehension) for node in nodes)
    names = [node for node in nodes if isinstance(node, ast.Name)]
    stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if num_loops > MAX_LOOPS or _ARGUMENT in stored or stored & called or not all(map(_is_allowed, nodes)):
        return None
    return function


def _is_plain(function: ast.FunctionDef) -> bool:
    """Whether nothing but `xs` is between the brackets, and nothing before or behind them."""
    arguments = function.args
    special = (arguments.posonlyargs, arguments.vararg, arguments.kwonlyargs, arguments.kwarg, arguments.defaults)
    names = [argument.arg for argument in arguments.args if argument.annotation is None]
    around = (function.decorator_list, function.returns, getattr(function, "type_params", None))
    return names == [_ARGUMENT] and len(arguments.args) == 1 and not any(special) and not any(around)


def _is_allowed(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            return not name.startswith("_")
        case ast.Constant(value=value):
            return isinstance(value, int) and value <= MAX_CONSTANT
        case ast.Attribute(value=owner):
            return node.attr == "append" and isinstance(owner, ast.Name) and owner.id == _RESULT_LIST
        case ast.For(iter=looped) | ast.comprehension(iter=looped, is_async=0):
            return isinstance(looped, ast.Name) and looped.id == _ARGUMENT
        case ast.BinOp() | ast.AugAssign():
            return type(node.op) in _BINARY
        case ast.Assign(value=value):
            # A list has one name only, so `+=` may make a new list.
            return not isinstance(value, ast.Name)
        case _:
            return isinstance(node, _NODES)


def run_function(function: ast.FunctionDef, numbers: Sequence[int]) -> Any:
    """What an allowed function returns for a list of numbers.

    Raises:
        ProgramError: it fails, or makes something too large.
    """
    try:
        returned = _execute(function.body, {_ARGUMENT: list(numbers)})
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ProgramError(str(error)) from error
    return None if returned is None else returned[0]


def _execute(statements: list[ast.stmt], variables: _Variables) -> tuple[Any] | None:
    """(value,) once a `return` is met, else None."""
    returned = None
    for statement in statements:
        match statement:
            case ast.Assign(targets=targets, value=node):
                value = _value(node, variables)
                for target in targets:
                    variables[_name(target)] = value
            case ast.AugAssign(target=target, op=op, value=node):
                name = _name(target)
                variables[name] = _binary(op, variables[name], _value(node, variables))
            case ast.For(target=target, body=body, orelse=orelse):
                # A copy: the body may append to it under another name.
                for value in list(variables[_ARGUMENT]):
                    variables[_name(target)] = value
                    if returned := _execute(body, variables):
                        return returned
                returned = _execute(orelse, variables)
            case ast.If(test=test, body=body, orelse=orelse):
                returned = _execute(body if _value(test, variables) else orelse, variables)
            case ast.Return(value=result):
                return (None if result is None else _value(result, variables),)
            case ast.Expr(value=node):
                _value(node, variables)
        if returned:
            break
    return returned


def _value(node: ast.expr, variables: _Variables) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return variables[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, _value(left, variables), _value(right, variables))
        case ast.UnaryOp(op=sign, operand=operand):
            return _UNARY[type(sign)](_value(operand, variables))
        case ast.Compare():
            return _compare(node, variables)
        case ast.BoolOp(op=ast.And(), values=nodes):
            return _first(nodes, variables, stop_at=False)
        case ast.BoolOp(op=ast.Or(), values=nodes):
            return _first(nodes, variables, stop_at=True)
        case ast.List(elts=nodes):
            return [_number(_value(element, variables)) for element in nodes]
        case ast.ListComp(elt=element, generators=generators):
            return [_number(_value(element, scope)) for scope in _scopes(generators, variables)]
        case ast.Call(func=function, args=arguments, keywords=keywords):
            values = [_value(argument, variables) for argument in arguments]
            return _function(function, variables)(
                *values, **{str(keyword.arg): _value(keyword.value, variables) for keyword in keywords}
            )
        case _:
            raise ProgramError(f"{type(node).__name__} is not a value")


def _function(node: ast.expr, variables: _Variables) -> Callable[..., Any]:
    if isinstance(node, ast.Name):
        return _FUNCTIONS[node.id]
    if not isinstance(node, ast.Attribute):
        raise ProgramError("what is called is not a function")
    result_list = variables[_RESULT_LIST]
    if not isinstance(result_list, list):
        raise ProgramError(f"{_RESULT_LIST} is not a list")

    def append(value: Any, /) -> None:
        # The list may be the argument itself, by `out = max(xs, xs)`, and then grows while it is looped over.
        if len(result_list) >= MAX_LIST_LENGTH:
            raise ProgramError("a list is too long")
        result_list.append(_number(value))

    return append


def _compare(node: ast.Compare, variables: _Variables) -> bool:
    """A chain, a < b < c, as far as it holds."""
    left = _value(node.left, variables)
    holds = True
    for comparison, right_node in zip(node.ops, node.comparators, strict=True):
        right = _value(right_node, variables)
        holds = _COMPARISONS[type(comparison)](left, right)
        if not holds:
            break
        left = right
    return holds


def _first(nodes: list[ast.expr], variables: _Variables, *, stop_at: bool) -> Any:
    """The first value as true as `stop_at`, or else the last one."""
    for node in nodes:
        value = _value(node, variables)
        if bool(value) == stop_at:
            break
    return value


def _scopes(generators: list[ast.comprehension], variables: _Variables) -> Iterator[_Variables]:
    """The variables inside a comprehension, once for each element."""
    if not generators:
        yield variables
        return
    first, *others = generators
    for value in variables[_ARGUMENT]:
        scope = variables | {_name(first.target): value}
        if all(_value(condition, scope) for condition in first.ifs):
            yield from _scopes(others, scope)


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(left, list) or isinstance(right, list):
        if not isinstance(op, ast.Add) or len(left) + len(right) > MAX_LIST_LENGTH:
            raise ProgramError("a list is too long, or in an operation that is not for lists")
        return left + right
    result = _BINARY[type(op)](left, right)
    if abs(result) > MAX_NUMBER:
        raise ProgramError("a number is too large")
    return result


def _number(value: Any) -> int | float:
    if not isinstance(value, int | float):
        raise ProgramError("only numbers can be in a list")
    return value


def _name(target: ast.expr) -> str:
    if not isinstance(target, ast.Name):
        raise ProgramError("only a name can be assigned to")
    return target.id
