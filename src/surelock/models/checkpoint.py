"""Reads the JSON files of a model folder. Data only: nothing in them is imported or run, whatever `auto_map` names."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from surelock.errors import ConfigError, ModelError, ModelNotFoundError, shown
from surelock.models.config import ModelConfig
from surelock.models.family import Family
from surelock.models.registry import family_for
from surelock.models.schema import shown_as_json

MAX_CONFIG_BYTES: Final = 1 << 20
MAX_NESTING: Final = 32


class _JSONFaultError(ValueError):
    """JSON that the standard parser would accept, but that has no one meaning."""


def read_model_config(folder: Path) -> tuple[ModelConfig, Family]:
    """The model described by config.json and, if there is one, generation_config.json in `folder`.

    Raises:
        ModelNotFoundError: there is no such folder, or no config.json in it.
        ConfigError: a file is not JSON of a bounded size, or describes no model that is supported.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"there is no folder {folder}; give one that holds config.json and *.safetensors")
    if not (folder / "config.json").exists():
        raise ModelNotFoundError(f"{folder} has no config.json; give a folder that holds config.json and *.safetensors")
    raw = read_json_object(folder / "config.json", max_bytes=MAX_CONFIG_BYTES, error=ConfigError)
    family = family_for(raw)
    generation_path = folder / "generation_config.json"
    generation = (
        read_json_object(generation_path, max_bytes=MAX_CONFIG_BYTES, error=ConfigError)
        if generation_path.exists()
        else {}
    )
    return family.parse_config(raw, generation), family


def read_json_object(path: Path, *, max_bytes: int, error: type[ModelError]) -> dict[str, Any]:
    """The JSON object in a file of at most `max_bytes` bytes; anything else is raised as `error`."""
    return parse_json_object(path, _read_bytes(path, max_bytes, error), error=error)


def parse_json_object(path: Path, data: bytes, *, error: type[ModelError]) -> dict[str, Any]:
    """The JSON object of at most 32 levels in data of the file `path`; anything else is raised as `error`.

    Refused although common parsers accept it: duplicate keys, NaN and infinity, and a byte order mark.
    """
    if data.startswith(codecs.BOM_UTF8):
        raise error(f"{path} starts with a byte order mark; save it as plain UTF-8")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except UnicodeDecodeError as fault:
        raise error(f"{path} is not UTF-8 text: bad byte at offset {fault.start}") from fault
    except RecursionError as fault:
        raise error(f"{path} is nested too deeply; the limit is {MAX_NESTING} levels") from fault
    except ValueError as fault:
        raise error(f"{path} is not valid JSON: {fault}") from fault
    if not isinstance(value, dict):
        raise error(f"{path} holds {shown_as_json(value)}; it must be a JSON object")
    if _depth(value) > MAX_NESTING:
        raise error(f"{path} is nested too deeply; the limit is {MAX_NESTING} levels")
    return value


def _read_bytes(path: Path, max_bytes: int, error: type[ModelError]) -> bytes:
    # Opening a pipe or a device could block or never end.
    if not path.is_file():
        raise error(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror}") from fault
    if len(data) > max_bytes:
        raise error(f"{path} is larger than {max_bytes} bytes, the limit for such a file")
    return data


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise _JSONFaultError(f"the key {shown(key)} occurs twice")
        record[key] = value
    return record


def _refuse_constant(name: str) -> None:
    raise _JSONFaultError(f"{name} is not a JSON number")


def _depth(value: dict[str, Any]) -> int:
    depth = 0
    level: list[Any] = [value]
    while level:
        depth += 1
        level = [child for parent in level for child in _children(parent) if isinstance(child, dict | list)]
    return depth


def _children(parent: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return parent.values() if isinstance(parent, dict) else parent
