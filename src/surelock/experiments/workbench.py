"""What an experiment works with: a model, prompts, and the runs that have been made so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from surelock.experiments.decode import decode
from surelock.experiments.lengths import Length, longest
from surelock.experiments.prompts import Prompts
from surelock.experiments.result import Progress, no_progress
from surelock.experiments.rules import Rule
from surelock.params import SamplingParams

if TYPE_CHECKING:
    from surelock.decoding.protocols import RowSelector
    from surelock.llm import LLM
    from surelock.output import RequestOutput

Settings = TypeVar("Settings")
Canvas = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose for all experiments.

    Attributes:
        quick: fewer prompts and shorter runs.
        num_prompts, lengths, batch_sizes: in place of an experiment's own; None for those.
        judge: folder or hub id of the causal language model that computes Gen-PPL; None for the shipped one.
        seed: of the bootstrap and of drawn tasks.
        offline: read the judge from files that are there.
    """

    quick: bool = False
    num_prompts: int | None = None
    lengths: tuple[Length, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    judge: str | None = None
    seed: int = 0
    offline: bool = False

    def settings(self, paper: Settings, quick: Settings) -> Settings:
        """The paper's settings or the quick ones, with what was chosen in their place."""
        own: Any = quick if self.quick else paper
        given = {name: getattr(self, name) for name in ("num_prompts", "lengths", "batch_sizes")}
        known = {field.name for field in fields(own)}
        settings: Settings = replace(
            own, **{name: value for name, value in given.items() if value is not None and name in known}
        )
        return settings


class Workbench:
    """One model and its prompts; equal runs are made once.

    Args:
        llm: the model.
        prompts: where prompts come from.
        options: of the user.
        progress: told what is being done.
    """

    def __init__(
        self, llm: LLM, prompts: Prompts, options: Options | None = None, *, progress: Progress = no_progress
    ) -> None:
        self.llm = llm
        self.prompts = prompts
        self.options = options or Options()
        self.progress = progress
        self._runs: dict[object, list[RequestOutput]] = {}

    def settings(self, paper: Settings, quick: Settings) -> Settings:
        """The paper's settings or the quick ones, with what the user chose in their place."""
        return self.options.settings(paper, quick)

    def facts(self, settings: Any, **more: object) -> dict[str, Any]:
        """Of a result file: model, device and settings."""
        own = {field.name: _plain(getattr(settings, field.name)) for field in fields(settings)}
        return {
            "model": self.llm.name,
            "revision": self.llm.commit,
            "dtype": str(self.llm.dtype).removeprefix("torch."),
            "device": str(self.llm.device),
            "quick": self.options.quick,
            **own,
            **more,
        }

    def fitting(
        self, lengths: Sequence[Length], prompts: Sequence[Sequence[int]]
    ) -> tuple[tuple[Length, ...], list[str]]:
        """The lengths whose canvases fit the model, and a line for each of the others."""
        limit, num_prompt = self.llm.config.max_sequence_length, longest(prompts)
        fits = tuple(length for length in lengths if num_prompt + length.num_generated <= limit)
        left_out = [
            f"N_gen/steps {length}: with the longest prompt ({num_prompt} tokens) the canvas has "
            f"{num_prompt + length.num_generated} positions; the model's limit is {limit}"
            for length in lengths
            if length not in fits
        ]
        return fits, left_out

    def run(
        self, prompts: Sequence[Canvas], length: Length, rule: Rule, *, selector: RowSelector | None = None
    ) -> list[RequestOutput]:
        """Decode the prompts at temperature 0 in one block; end ids are kept, so that every run has N_gen tokens."""
        key = (tuple(prompts), length, rule, selector)
        if key not in self._runs:
            what = f"N_gen/steps {length}, {rule}"
            params = SamplingParams(
                max_tokens=length.num_generated, steps=length.steps, ignore_eos=True, lock=rule.lock
            )
            self.progress(what)
            self._runs[key] = decode(
                self.llm,
                prompts,
                [params] * len(prompts),
                selector=selector,
                progress=lambda message: self.progress(f"{what}: {message}"),
            )
        return self._runs[key]


def _plain(value: object) -> object:
    """For JSON: lengths as they are written on the command line."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Length) else value
