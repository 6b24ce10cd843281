"""Which prompts a measurement is taken on, and what stands in every result file."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from surelock.errors import ParameterError

if TYPE_CHECKING:
    from surelock.llm import LLM
    from surelock.measure.dense import Canvas

MEASURE_PANEL: Final = "Measurement"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSetOptions:
    """Which prompts a measurement is taken on."""

    prompts: Annotated[
        Path | None,
        typer.Option(
            help='A file of your own: one text a line, or .jsonl with "text" or "prompt".',
            show_default="held-out text in the package",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None
    tasks: Annotated[
        bool,
        typer.Option(
            "--tasks",
            metavar="",
            help="Problems with checkable answers, as chat turns, instead of text.",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = False
    num_prompts: Annotated[
        int | None,
        typer.Option(
            help="Prompts to measure on.",
            min=1,
            max=1 << 16,
            show_default="chosen for the device",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None
    prompt_tokens: Annotated[
        int, typer.Option(help="Tokens of a text prompt.", min=1, max=1 << 16, rich_help_panel=MEASURE_PANEL)
    ] = 64

    @property
    def name(self) -> str:
        """For result files."""
        return str(self.prompts) if self.prompts is not None else "tasks" if self.tasks else "held-out text"

    def canvases(self, llm: LLM, max_tokens: int, *, num_on_cpu: int, num_on_gpu: int) -> list[Canvas]:
        """The prompt part of each canvas, max_tokens to be appended.

        Raises:
            PromptError, ParameterError: the file holds no usable prompt, one is too long, or options contradict each
                other.
        """
        if self.tasks and self.prompts is not None:
            raise ParameterError("--tasks contradicts --prompts; leave one of them out")
        num = self.num_prompts or (num_on_gpu if llm.device.type == "cuda" else num_on_cpu)
        from surelock.measure.prompt_sets import check_room, task_canvases, text_canvases

        if self.tasks:
            found = task_canvases(llm, num, seed=0)
        else:
            found = text_canvases(llm, num, num_prompt_tokens=self.prompt_tokens, path=self.prompts)
        check_room(found, max_tokens, llm.config.max_sequence_length)
        return found


def run_facts(llm: LLM) -> dict[str, Any]:
    """The command, the machine and the model of a result file."""
    from surelock.results.environment import environment

    return {
        "command": shlex.join(["surelock", *sys.argv[1:]]),
        "environment": environment(),
        "model": llm.name,
        "commit": llm.commit,
        "dtype": str(llm.dtype).removeprefix("torch."),
    }
