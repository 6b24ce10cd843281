"""Modules of a folder under names of ours, without running its packages' `__init__` files."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def bare_package(name: str, folder: Path) -> None:
    """Make the modules of a folder importable as name.MODULE.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing")
    spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules[name] = importlib.util.module_from_spec(spec)


def load(name: str) -> Any:
    """A module of a bare package."""
    return import_module(name)


def stub(name: str, **values: Any) -> None:
    """Put a module with these names where nothing of that name is installed."""
    try:
        import_module(name)
    except ImportError:
        module = ModuleType(name)
        module.__dict__.update(values)
        sys.modules[name] = module
