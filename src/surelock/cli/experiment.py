"""`surelock experiment`: the paper's experiments on any checkpoint."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from surelock.cli.loading import device_and_dtype, load_llm
from surelock.cli.measuring import Show, measuring_status, parse_numbers
from surelock.cli.options import MODEL_PANEL, OUTPUT_PANEL, ModelOptions, with_options
from surelock.cli.terminal import note, standard_output
from surelock.errors import ParameterError

if TYPE_CHECKING:
    from surelock.experiments.registry import Experiment
    from surelock.experiments.result import Keep, Result
    from surelock.experiments.workbench import Options

EXPERIMENT_PANEL: Final = "Experiment"


@with_options
def experiment(
    which: Annotated[
        str,
        typer.Argument(
            metavar="1|2|3|4|5|6|all|FINDING",
            help="Number as in the paper, or all of them; the name of an open question, or `finding` for all those.",
        ),
    ],
    model: ModelOptions,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Experiment 4 only: cost on random weights of this shape instead of a model: llada-8b (on a CUDA "
            "device) or tiny.",
            show_default=False,
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines with "turns" (MT-Bench), "prompt" or "text", or plain text, one prompt a line.',
            show_default="held-out text and tasks of the package",
            rich_help_panel=EXPERIMENT_PANEL,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            metavar="",
            help="Fewer prompts and shorter runs: minutes on a CPU.",
            rich_help_panel=EXPERIMENT_PANEL,
        ),
    ] = False,
    num_prompts: Annotated[
        int | None,
        typer.Option(
            help="Prompts of every experiment.",
            show_default="the paper's",
            min=1,
            max=1 << 16,
            rich_help_panel=EXPERIMENT_PANEL,
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="N_gen, or N_gen/steps, of every experiment: 64,128/64.",
            show_default="the paper's",
            rich_help_panel=EXPERIMENT_PANEL,
        ),
    ] = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option(
            help="Experiment 4 only: requests decoded together: 1,2.",
            show_default="the paper's",
            rich_help_panel=EXPERIMENT_PANEL,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Causal language model for Gen-PPL: hub id or local folder.",
            show_default="a small one in the package",
            rich_help_panel=EXPERIMENT_PANEL,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of drawn tasks and of the bootstrap.", min=0, rich_help_panel=EXPERIMENT_PANEL)
    ] = 0,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the results, one below it for each experiment.", rich_help_panel=OUTPUT_PANEL),
    ] = Path("experiments"),
) -> None:
    """Repeat the paper's experiments on a model: data, tables, pictures and what was found.

    1 FLOPs over N_gen and epsilon; 2 active ratio step by step; 3 quality against FLOPs; 4 tokens per second; 5 with
    row selection; 6 epsilon from 5e-8 to 5e-2. `all` also writes report.html, one page that opens in a browser.

    Open questions: short_outputs, refresh, adaptive, kv_drift, temperature, oscillation, noise_floor,
    long_canvases.

    Settings are the paper's; those beyond the model's length are left out, and the result says so.
    """
    from surelock.experiments.decode import WIDE
    from surelock.experiments.lengths import parse_lengths
    from surelock.experiments.prompts import Prompts
    from surelock.experiments.registry import chosen
    from surelock.experiments.report import write_report
    from surelock.experiments.workbench import Options, Workbench
    from surelock.experiments.write import check_output

    experiments = chosen(which)
    options = Options(
        quick=quick,
        num_prompts=num_prompts,
        lengths=None if lengths is None else parse_lengths("--lengths", lengths),
        batch_sizes=None if batch_sizes is None else _batch_sizes(experiments, batch_sizes),
        judge=judge,
        seed=seed,
        offline=model.offline,
    )
    needs_text = {"--prompts": prompts, "--num-prompts": num_prompts, "--judge": judge}
    check_output(out)
    command = shlex.join(["surelock", *sys.argv[1:]])
    with measuring_status() as show:
        if shape is not None:
            (own,) = _with_shape(experiments, shape)
            unused = {"--model": model.model, "--revision": model.revision, **needs_text}
            _refuse(unused, "contradicts --shape; leave one of them out")
            folder = out / f"{own.folder}_{shape}"
            # Beside the folder: an older result that is whole outlives a run that is cut off.
            partial = folder.with_name(f"{folder.name}_partial")
            _write(folder, _run_shape(own, shape, options, model, show, _keeping(partial, command)), command)
            shutil.rmtree(partial, ignore_errors=True)
            return
        if (counted := _counted(experiments)) is not None:
            own, count = counted
            unused = {"--model": model.model, "--revision": model.revision, "--device": model.device, **needs_text}
            unused["--dtype"] = model.dtype
            _refuse(unused, f"does not apply to {own.name}, which is counted without weights; leave it out")
            _write(out / own.folder, count(options), command)
            return
        on_gpu = device_and_dtype(model)[0].type == "cuda"
        llm = load_llm(model, WIDE if on_gpu else None)
        bench = Workbench(llm, Prompts(llm, prompts, seed=seed), options)
        for each in experiments:
            show(each.title)
            bench.progress = _named(show, each.name)
            _write(out / each.folder, each.run(bench), command)
        if which == "all":
            page = out / "report.html"
            write_report(out, page)
            note(f"wrote {page}")


def _with_shape(experiments: Sequence[Experiment], shape: str) -> Sequence[Experiment]:
    """The one experiment, if it needs no weights."""
    if len(experiments) != 1 or experiments[0].run_shape is None:
        raise ParameterError("--shape is for experiment 4 alone, which measures cost; leave it out")
    return experiments


def _counted(experiments: Sequence[Experiment]) -> tuple[Experiment, Callable[[Options], Result]] | None:
    """The one experiment, if it needs no model."""
    if len(experiments) != 1 or experiments[0].count is None:
        return None
    return experiments[0], experiments[0].count


def _refuse(options: Mapping[str, object], reason: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise ParameterError(f"{name} {reason}")


def _batch_sizes(experiments: Sequence[Experiment], text: str) -> tuple[int, ...]:
    """Each once, the smallest first."""
    if [each.number for each in experiments] != ["4"]:
        raise ParameterError("--batch-sizes is for experiment 4 alone, which measures time; leave it out")
    return tuple(sorted(set(parse_numbers("--batch-sizes", text))))


def _run_shape(own: Experiment, shape: str, options: Options, model: ModelOptions, show: Show, keep: Keep) -> Result:
    assert own.run_shape is not None
    device, dtype = device_and_dtype(model)
    return own.run_shape(shape, options, device=device, dtype=dtype, progress=_named(show, own.name), keep=keep)


def _keeping(folder: Path, command: str) -> Keep:
    """Writes what has been measured so far, so that a run that is cut off leaves it."""
    from surelock.experiments.write import write_result

    def keep(result: Result) -> None:
        write_result(folder, result, command)

    return keep


def _named(show: Show, name: str) -> Show:
    return lambda message: show(f"{name}: {message}")


def _write(folder: Path, result: Result, command: str) -> None:
    from surelock.experiments.write import write_result

    write_result(folder, result, command)
    _print(result)
    note(f"wrote {folder}")


def _print(result: Result) -> None:
    console = standard_output()
    console.print(f"{result.number}. {result.title}", style="bold", soft_wrap=True)
    for sentence in [*result.findings, *(f"left out: {line}" for line in result.left_out)]:
        console.print(f"- {sentence}", soft_wrap=True)
