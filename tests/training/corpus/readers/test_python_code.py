from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.training.corpus.packages import write_package
from training.corpus.document import Document
from training.corpus.readers.python_code import code_units, python_files, read_codeio

FUNCTION = '''@cache
def mean(values):
    """The mean of some numbers, which is their sum divided by how many there are of them."""
    total = 0
    for value in values:
        total += value
    return total / len(values)'''


def method_of_a_long_class() -> str:
    method = "\n".join(f"    {line}" if line else line for line in FUNCTION.split("\n"))
    return f"class Long:\n{method}\n" + "    x = 1\n" * 80


@pytest.mark.parametrize(
    "source",
    [
        FUNCTION,
        f"import os\n\nx = 1\n{FUNCTION}\n",
        method_of_a_long_class(),
        FUNCTION.replace("    ", "\t").replace("0", "0  "),
    ],
    ids=["alone", "among others", "in a long class", "tabs and blanks"],
)
def test_units(source: str) -> None:
    assert list(code_units(source)) == [FUNCTION]


def test_a_short_class_is_one_unit() -> None:
    source = "class Short:\n" + "\n".join(f"    {line}" for line in FUNCTION.split("\n"))
    assert list(code_units(source)) == [source]


@pytest.mark.parametrize(
    "source",
    [
        "def short(): pass",
        FUNCTION + "\n    return 0" * 500,
        FUNCTION.replace("total = 0", "total = 0  # " + "long " * 30),
        FUNCTION.replace("numbers", "num\u00f6rs"),
        FUNCTION.replace("total = 0", "total = 0xdeadbeef"),
        FUNCTION.replace("total = 0", "total = [" + "1, " * 12 + "]"),
        FUNCTION + "\n    return (",
        "x = '\0'",
        "(" * 300,
        FUNCTION.replace("def", "async def"),
    ],
)
def test_what_is_no_unit(source: str) -> None:
    assert list(code_units(source)) == []


def test_doubtful_escapes_are_not_spoken_of() -> None:
    assert list(code_units(FUNCTION.replace("numbers", r"\d")))


def test_files(tmp_path: Path) -> None:
    files = {"./lib/python3.11/a/b.py": FUNCTION.encode(), "./lib/python3.11/empty.py": b"", "./lib/c.txt": b"text"}
    path = write_package(tmp_path / "p.deb", files)
    assert list(python_files(r"\.py$", folder="cpython", below="python3.11/")(path)) == [
        Document("cpython/a/b.py", [FUNCTION])
    ]
    assert [document.id for document in python_files(r"\.py$", folder="x")(path)] == ["x/./lib/python3.11/a/b.py"]


def test_codeio(tmp_path: Path) -> None:
    lines = [json.dumps({"code_sample": code}) for code in ("x = 1", FUNCTION)]
    files = {"reasoning_gym/data/codeio.jsonl.gz": gzip.compress("\n".join([*lines, ""]).encode())}
    assert list(read_codeio(write_package(tmp_path / "p.whl", files))) == [Document("codeio/1", [FUNCTION])]
