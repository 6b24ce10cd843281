"""Which experiments there are."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from surelock.errors import ParameterError, shown
from surelock.experiments import catalogue

if TYPE_CHECKING:
    from surelock.experiments.result import Result
    from surelock.experiments.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment of the paper.

    Attributes:
        number: as the paper numbers it.
        name: of its folder and files.
        title: one line.
        run: measures a loaded model.
        run_shape: measures cost alone, on random weights of a named shape; None where weights matter.
    """

    number: str
    name: str
    title: str
    run: Callable[[Workbench], Result]
    run_shape: Callable[..., Result] | None = None

    @property
    def folder(self) -> str:
        """Of its files, below the folder of all results."""
        return f"{self.number}_{self.name}"


@cache
def experiments() -> tuple[Experiment, ...]:
    """All of them, in the order of their numbers."""
    modules = [import_module(f"{catalogue.__name__}.{info.name}") for info in pkgutil.iter_modules(catalogue.__path__)]
    found = [module.EXPERIMENT for module in modules]
    return tuple(sorted(found, key=lambda experiment: experiment.number))


def chosen(which: str) -> tuple[Experiment, ...]:
    """The experiments that `which` names: a number, a name or `all`.

    Raises:
        ParameterError: there is none of that name.
    """
    known = experiments()
    matching = known if which == "all" else tuple(each for each in known if which in (each.number, each.name))
    if not matching:
        raise ParameterError(f"the experiment is {shown(which)}; use {', '.join(each.number for each in known)} or all")
    return matching
