"""`surelock bench`: how fast this machine decodes, and how near that is to what it could do."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from surelock.cli.loading import device_and_dtype, load_llm
from surelock.cli.measuring import measuring_status, parse_numbers, print_table
from surelock.cli.options import MODEL_PANEL, OUTPUT_PANEL, JsonFlag, LockOptions, ModelOptions, with_options
from surelock.cli.terminal import note, standard_output
from surelock.cli.watch import write_json
from surelock.errors import ParameterError
from surelock.params import LockParams

if TYPE_CHECKING:
    from surelock.bench.baselines import Baseline
    from surelock.bench.result import BenchResult
    from surelock.bench.subject import Subject

MEASURE_PANEL: Final = "Measurement"
Schedule = Literal["default", "paper"]

QuickFlag = Annotated[bool, typer.Option("--quick", metavar="", help="As little as possible, to see that it runs.")]
BaselineOption = Annotated[
    tuple[str, Path] | None,
    typer.Option(
        "--baseline",
        metavar="NAME DIR",
        help="Also time a peer: official, fast-dllm or dinfer, and the folder of its code, which is run: pass only "
        "code you trust. Needs surelock itself to be installed from a checkout (pip install -e).",
        show_default=False,
        rich_help_panel=MEASURE_PANEL,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeOptions:
    """A model made up on the fly instead of a loaded one."""

    shape: Annotated[
        str | None,
        typer.Option(
            help="Random weights of this shape instead of a model: llada-8b (on a CUDA device) or tiny.",
            show_default=False,
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    schedule: Annotated[
        Schedule | None,
        typer.Option(
            help="Script the locks follow on random weights: default (what permanent locks leave on trained weights) "
            "or paper (Figure 2 of the paper).",
            show_default="default",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultOptions:
    """Where results go."""

    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the JSON and CSV files and the plots.", show_default=False, rich_help_panel=OUTPUT_PANEL
        ),
    ] = None
    no_plots: Annotated[
        bool, typer.Option("--no-plots", metavar="", help="Draw nothing.", rich_help_panel=OUTPUT_PANEL)
    ] = False


bench = typer.Typer(
    name="bench",
    no_args_is_help=True,
    help="Measure latency, throughput, steps and ops, beside the limits of the machine.",
)


@bench.command()
@with_options
def latency(
    model: ModelOptions,
    shape: ShapeOptions,
    lock: LockOptions,
    result: ResultOptions,
    settings: Annotated[
        str | None,
        typer.Option(
            help="Requests and generated tokens of each setting, for example 1x64,8x256.",
            show_default="1x64,4x64 on a CPU, 1x64,1x256,4x256,8x256 on a GPU",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(help="Tokens of every prompt.", min=1, max=1 << 20, rich_help_panel=MEASURE_PANEL)
    ] = 64,
    no_bound: Annotated[
        bool,
        typer.Option(
            "--no-bound", metavar="", help="Leave out the steps that the bound needs.", rich_help_panel=MEASURE_PANEL
        ),
    ] = False,
    baseline: BaselineOption = None,
    quick: QuickFlag = False,
    json: JsonFlag = False,
) -> None:
    """Time per step and of whole runs, with locks and without, one token a step.

    The bound is the speed-up if measuring and locking cost nothing, rebuilt from steps of as many rows.
    """
    _check_output(result)
    if lock.no_lock:
        raise ParameterError("--no-lock contradicts bench latency, which measures both sides; leave it out")
    with measuring_status() as show:
        from surelock.bench.latency import Setting, run_latency

        given = None if settings is None else [Setting.parse(text) for text in settings.split(",")]
        subject = _subject(model, shape, lock)
        default = "1x16" if quick else "1x64,1x256,4x256,8x256" if subject.device.type == "cuda" else "1x64,4x64"
        found = run_latency(
            subject,
            given or [Setting.parse(text) for text in default.split(",")],
            num_prompt=16 if quick else prompt_tokens,
            with_bound=not (quick or no_bound),
            baseline=_baseline(baseline, subject),
            progress=show,
        )
    _report(found, result, as_json=json)
    if any(not 0.8 <= row["unlocked_drift"] <= 1.25 for row in found.rows) and not quick:
        note(
            "steps without locks took another time before and after the locked run: the machine was busy, measure again"
        )


@bench.command()
@with_options
def throughput(
    model: ModelOptions,
    shape: ShapeOptions,
    lock: LockOptions,
    result: ResultOptions,
    num_requests: Annotated[
        int | None,
        typer.Option(
            "--num-requests",
            min=1,
            max=1 << 16,
            help="Requests to serve.",
            show_default="12 on a CPU, 64 on a GPU",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            help="Generated tokens of a request, one of these at random.",
            show_default="16,32,64 on a CPU, 64,128,256,512,1024 on a GPU",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None,
    prompt_tokens: Annotated[
        str | None,
        typer.Option(
            help="Tokens of a prompt, from-to.",
            show_default="16-64 on a CPU, 16-128 on a GPU",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Requests of a static batch.", show_default="4 on a CPU, 8 on a GPU", rich_help_panel=MEASURE_PANEL
        ),
    ] = None,
    max_running: Annotated[
        int | None,
        typer.Option(
            help="Requests that run together in continuous batching, as far as their rows fit.",
            show_default="4 times the batch size",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Requests a second, arriving as a Poisson process.",
            show_default="all at the start",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None,
    baseline: BaselineOption = None,
    quick: QuickFlag = False,
    json: JsonFlag = False,
) -> None:
    """Tokens a second of many requests of mixed sizes: continuous batching against static batches."""
    _check_output(result)
    if rate is not None and not 0 < rate <= 1e6:
        raise ParameterError(f"--rate is {rate:g}; it must be above 0 and at most 1e6 requests a second")
    sizes = parse_numbers("--tokens", tokens) if tokens is not None else None
    prompts = _range("--prompt-tokens", prompt_tokens) if prompt_tokens is not None else None
    with measuring_status() as show:
        from surelock.bench.throughput import mixed_jobs, run_throughput

        subject = _subject(model, shape, lock)
        on_gpu = subject.device.type == "cuda"
        jobs = mixed_jobs(
            subject,
            num_requests=num_requests or (4 if quick else 64 if on_gpu else 12),
            num_tokens=sizes or ([8, 16] if quick else [64, 128, 256, 512, 1024] if on_gpu else [16, 32, 64]),
            num_prompt=prompts or ((4, 16) if quick else (16, 128) if on_gpu else (16, 64)),
        )
        found = run_throughput(
            subject,
            jobs,
            batch_size=batch_size if batch_size is not None else 2 if quick else 8 if on_gpu else 4,
            max_running=max_running,
            rate=rate,
            baseline=_baseline(baseline, subject),
            progress=show,
        )
    _report(found, result, as_json=json)


@bench.command()
@with_options
def steps(
    model: ModelOptions,
    shape: ShapeOptions,
    result: ResultOptions,
    requests: Annotated[
        str | None,
        typer.Option(
            help="Requests decoded together, one curve each.",
            show_default="1,4 on a CPU, 1,4,8 on a GPU",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None,
    positions: Annotated[
        int | None,
        typer.Option(
            help="Length of every canvas.", show_default="128 on a CPU, 1088 on a GPU", rich_help_panel=MEASURE_PANEL
        ),
    ] = None,
    points: Annotated[
        int, typer.Option(help="Numbers of rows on each curve.", min=2, max=64, rich_help_panel=MEASURE_PANEL)
    ] = 8,
    quick: QuickFlag = False,
    json: JsonFlag = False,
) -> None:
    """Time of a step against the rows it computes, beside the least the machine could take.

    Below the break-even number of rows reading the weights is the cost, and locking cannot pay.
    """
    _check_output(result)
    given = parse_numbers("--requests", requests) if requests is not None else None
    with measuring_status() as show:
        from surelock.bench.steps import run_steps

        subject = _subject(model, shape, None)
        on_gpu = subject.device.type == "cuda"
        found = run_steps(
            subject,
            num_requests=given or ([1] if quick else [1, 4, 8] if on_gpu else [1, 4]),
            num_positions=positions if positions is not None else 32 if quick else 1088 if on_gpu else 128,
            num_points=2 if quick else points,
            progress=show,
        )
    _report(found, result, as_json=json)


@bench.command()
@with_options
def ops(
    model: ModelOptions,
    shape: ShapeOptions,
    result: ResultOptions,
    rows: Annotated[
        str | None,
        typer.Option(
            help="Numbers of rows.",
            show_default="16,256 on a CPU, 64,512,2048 on a GPU",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None,
    positions: Annotated[
        int, typer.Option(help="Keys each row attends to.", min=1, max=1 << 20, rich_help_panel=MEASURE_PANEL)
    ] = 320,
    quick: QuickFlag = False,
    json: JsonFlag = False,
) -> None:
    """Each hot operation against the least time its bytes and FLOPs allow."""
    _check_output(result)
    counts = parse_numbers("--rows", rows) if rows is not None else None
    with measuring_status() as show:
        from surelock.bench.ops import run_ops

        subject = _subject(model, shape, None)
        default = [16] if quick else [64, 512, 2048] if subject.device.type == "cuda" else [16, 256]
        found = run_ops(subject, num_rows=counts or default, num_positions=positions, progress=show)
    _report(found, result, as_json=json)


def _subject(model: ModelOptions, shape: ShapeOptions, lock: LockOptions | None) -> Subject:
    """What the options ask to be measured; `lock` is None where no rule is involved."""
    if shape.shape is None:
        if shape.schedule is not None:
            raise ParameterError("--schedule has no effect on a model with trained weights: add --shape")
        rule = LockParams() if lock is None else lock.lock_params(model)
        from surelock.bench.subject import trained_subject

        # A rule that never locks does for none.
        return trained_subject(load_llm(model), rule or LockParams(kl_threshold=-1.0))
    for name in ("model", "revision"):
        if getattr(model, name) is not None:
            raise ParameterError(f"--{name} contradicts --shape; leave one of them out")
    if lock is not None and lock != LockOptions():
        names = (field.name for field in fields(lock))
        given = next(name for name in names if getattr(lock, name) != getattr(LockOptions(), name))
        raise ParameterError(
            f"--{given.replace('_', '-')} has no effect with --shape, whose locks follow a script; use --schedule"
        )
    from surelock.bench.subject import random_subject

    device, dtype = device_and_dtype(model)
    return random_subject(shape.shape, shape.schedule or "default", device=device, dtype=dtype)


def _baseline(baseline: tuple[str, Path] | None, subject: Subject) -> Baseline | None:
    if baseline is None:
        return None
    from surelock.bench.baselines import load_baseline

    name, folder = baseline
    return load_baseline(name, folder, subject.config, device=subject.device, dtype=subject.model.dtype)


def _range(option: str, text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    ends = [low.strip(), (high or low).strip()]
    if not all(end.isdecimal() and len(end) <= 7 and int(end) for end in ends) or int(ends[0]) > int(ends[1]):
        raise ParameterError(f"{option} is {text!r:.60}; write two positive integers, the smaller first: 16-128")
    return int(ends[0]), int(ends[1])


def _check_output(result: ResultOptions) -> None:
    if result.out is not None:
        from surelock.bench.write import check_output

        check_output(result.out, plots=not result.no_plots)


def _report(found: BenchResult, result: ResultOptions, *, as_json: bool) -> None:
    content = found.to_dict(shlex.join(["surelock", *sys.argv[1:]]))
    if result.out is not None:
        from surelock.bench.write import write_result

        for path in write_result(result.out, found, content, plots=not result.no_plots):
            note(f"wrote {path}")
    if as_json:
        write_json(content)
    else:
        _print(found)


def _print(found: BenchResult) -> None:
    console = standard_output()
    for name in ("model", "weights", "lock", "matmul_tflops", "copy_tb_per_s", "break_even_rows"):
        value = found.facts.get(name)
        if value is not None:
            console.print(f"{name.replace('_', ' ')}: {_shown(value)}", style="dim", soft_wrap=True)
    if "break_even_rows" in found.facts:
        console.print(
            "Below the break-even number of rows a step, over all requests, locking cannot pay.",
            style="dim",
            soft_wrap=True,
        )
    print_table(found.rows, lambda name, value: _shown(value))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
