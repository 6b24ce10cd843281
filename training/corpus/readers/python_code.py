"""Python functions and classes that stand alone; they are parsed, never run."""

from __future__ import annotations

import ast
import gzip
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from training.corpus.archives import member, members
from training.corpus.document import Document, Reader

_MAX_LINE_LENGTH: Final = 110
# A class of more lines is taken by its methods.
_MAX_CLASS_LINES: Final = 80
# Tables of numbers.
_TABLE: Final = re.compile(r"0x[0-9a-f]{6,}|(\d+, ){12,}")


def python_files(files: str, *, folder: str, below: str = "") -> Reader:
    """A reader of the files whose name matches `files`, one document each.

    Args:
        files: pattern of file names.
        folder: first part of a document's name; the file's own name follows.
        below: what the file's own name is cut after.
    """

    def read(path: Path) -> Iterator[Document]:
        for name, content in members(path, files):
            units = list(code_units(content.decode(errors="replace")))
            if units:
                yield Document(f"{folder}/{name.partition(below)[2] if below else name}", units)

    return read


def read_codeio(path: Path) -> Iterator[Document]:
    """One document a program of codeio, a part of reasoning-gym."""
    lines = gzip.decompress(member(path, r"^reasoning_gym/data/codeio\.jsonl\.gz$")).decode().split("\n")
    for number, line in enumerate(lines):
        if line.strip():
            units = list(code_units(json.loads(line)["code_sample"], min_length=150, max_length=4000))
            if units:
                yield Document(f"codeio/{number}", units)


def code_units(source: str, *, min_length: int = 200, max_length: int = 6000) -> Iterator[str]:
    """Top-level functions and classes as written, ASCII, without their indentation; nothing if it does not parse."""
    try:
        with warnings.catch_warnings():
            # What newer versions of Python say about a file's style.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = source.split("\n")
    for node in _units(tree):
        start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
        unit = _dedent("\n".join(lines[start : node.end_lineno]))
        fits = min_length <= len(unit) <= max_length and max(map(len, unit.split("\n"))) <= _MAX_LINE_LENGTH
        if fits and unit.isascii() and not _TABLE.search(unit):
            yield unit


def _units(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (node.end_lineno or node.lineno) - node.lineno > _MAX_CLASS_LINES:
            yield from (child for child in node.body if isinstance(child, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node


def _dedent(unit: str) -> str:
    # textwrap.dedent would stop at a line of a string that begins further left.
    indent = unit[: len(unit) - len(unit.lstrip(" "))]
    unit = re.sub(rf"(?m)^{indent}", "", unit)
    return "\n".join(line.rstrip() for line in unit.expandtabs(4).split("\n"))
