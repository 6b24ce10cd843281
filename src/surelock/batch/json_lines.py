"""Rows of a .jsonl file: one JSON object on each line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from surelock.batch.task import MAX_ROW_BYTES, Row, digest_of
from surelock.errors import PromptError, shown, shown_error

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def read_json_lines(path: Path, number: int, start: int) -> Iterator[Row]:
    """Rows from byte `start` on, where row `number` begins; lines of nothing but blanks are none."""
    with path.open("rb") as file:
        file.seek(start)
        while line := file.readline(MAX_ROW_BYTES + 1):
            end = _skip_rest(file, line)
            if start == 0:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if line.strip():
                yield _row(line.rstrip(b"\r\n"), number, start, end)
                number += 1
            start = end


def _skip_rest(file: BinaryIO, line: bytes) -> int:
    """Move past the end of the line that `line` is the beginning of; returns where that is."""
    while len(line) > MAX_ROW_BYTES and line and not line.endswith(b"\n"):
        line = file.readline(MAX_ROW_BYTES + 1)
    return file.tell()


def _row(line: bytes, number: int, start: int, end: int) -> Row:
    if len(line) > MAX_ROW_BYTES:
        size = end - start
        fault = f"its line has {size} bytes; the limit is {MAX_ROW_BYTES}: shorten the prompt"
        return Row(number, digest_of(line + b"%d" % size), start, {}, fault)
    digest = digest_of(line)
    try:
        values = orjson.loads(line)
        # orjson takes the last of two values of one key.
        json.loads(line, object_pairs_hook=_refuse_repeated_keys)
    except orjson.JSONDecodeError as error:
        return Row(number, digest, start, {}, f"it is not JSON: {shown_error(error)}")
    except PromptError as error:
        return Row(number, digest, start, {}, str(error))
    except RecursionError:
        return Row(number, digest, start, {}, "it is nested too deep for a row")
    if not isinstance(values, dict):
        return Row(number, digest, start, {}, f"it is {shown(values)}; it must be a JSON object")
    return Row(number, digest, start, values)


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise PromptError(f"it has the key {shown(name)} twice; leave one of them out")
        seen.add(name)
