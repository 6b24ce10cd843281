"""Which experiments there are."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from surelock.errors import ParameterError, shown
from surelock.experiments import catalogue, findings

if TYPE_CHECKING:
    from surelock.experiments.result import Result
    from surelock.experiments.workbench import Options, Workbench


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment of the paper.

    Attributes:
        number: as the paper numbers it.
        name: of its folder and files.
        title: one line.
        run: measures a loaded model.
        run_shape: measures cost alone, on random weights of a named shape, and hands over what has been measured so far
            after each setting; None where weights matter.
        count: gives what `run` does without a model; None where one is needed.
    """

    number: str
    name: str
    title: str
    run: Callable[[Workbench], Result]
    run_shape: Callable[..., Result] | None = None
    count: Callable[[Options], Result] | None = None

    @property
    def folder(self) -> str:
        """Of its files, below the folder of all results."""
        return f"{self.number}_{self.name}"


@cache
def experiments() -> tuple[Experiment, ...]:
    """All of the paper's, in the order of their numbers."""
    return _found_in(catalogue, "EXPERIMENT")


@cache
def open_questions() -> tuple[Experiment, ...]:
    """Those the paper left open, all with the number `finding`, in the order of their names."""
    return _found_in(findings, "FINDING")


def chosen(which: str) -> tuple[Experiment, ...]:
    """The experiments that `which` names: a number, a name, `finding` or `all`, which is those of the paper.

    Raises:
        ParameterError: there is none of that name.
    """
    known = (*experiments(), *open_questions())
    matching = experiments() if which == "all" else tuple(each for each in known if which in (each.number, each.name))
    if not matching:
        names = [each.number for each in experiments()] + [each.name for each in open_questions()]
        raise ParameterError(f"the experiment is {shown(which)}; use {', '.join(names)}, finding or all")
    return matching


def _found_in(package: ModuleType, name: str) -> tuple[Experiment, ...]:
    modules = [import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)]
    found = [getattr(module, name) for module in modules]
    return tuple(sorted(found, key=lambda experiment: (experiment.number, experiment.name)))
