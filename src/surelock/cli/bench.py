"""`surelock bench`: how fast this machine decodes, and how near that is to what it could do."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from surelock.cli.loading import device_and_dtype, load_llm
from surelock.cli.measuring import command_line, note_written, parse_numbers, print_table, shown
from surelock.cli.options import JsonFlag, LockOptions, ModelOptions, NoPlots, option, refuse, with_options
from surelock.cli.terminal import note, standard_output, status
from surelock.cli.watch import write_json
from surelock.errors import ParameterError
from surelock.params import LockParams

if TYPE_CHECKING:
    from surelock.bench.baselines import Baseline
    from surelock.bench.result import BenchResult
    from surelock.bench.subject import Subject

Schedule = Literal["default", "paper"]
BaselineOption = Annotated[
    tuple[str, Path] | None,
    option(
        "Also time a peer: official, fast-dllm or dinfer, and the folder of its code, which is run: pass only "
        "code you trust. Needs surelock itself to be installed from a checkout (pip install -e).",
        metavar="NAME DIR",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What is measured, a loaded model or one made up on the fly, and where results go."""

    model: ModelOptions
    shape: Annotated[
        str | None,
        option("Random weights of this shape instead of a model: llada-8b (on a CUDA device) or tiny.", "Model"),
    ] = None
    schedule: Annotated[
        Schedule | None,
        option(
            "Script the locks follow on random weights: default (what permanent locks leave on trained weights) "
            "or paper (Figure 2 of the paper).",
            "Model",
            default="default",
        ),
    ] = None
    out: Annotated[Path | None, option("Folder for the JSON and CSV files and the plots.", "Output")] = None
    no_plots: NoPlots = False
    quick: Annotated[bool, option("As little as possible, to see that it runs.")] = False
    json: JsonFlag = False

    def check_output(self) -> None:
        """Refuse a place that results cannot be written to before anything is measured."""
        if self.out is not None:
            from surelock.bench.result import check_output

            check_output(self.out, plots=not self.no_plots)

    def subject(self, lock: LockOptions | None = None) -> Subject:
        """What is to be measured; `lock` is None where no rule is involved."""
        if self.shape is None:
            is_given = self.schedule is not None
            refuse("has no effect on a model with trained weights: add --shape", schedule=is_given)
            rule = LockParams() if lock is None else lock.lock_params(self.model)
            from surelock.bench.subject import trained_subject

            # A rule that never locks does for none.
            return trained_subject(load_llm(self.model), rule or LockParams(kl_threshold=-1.0))
        model, revision = self.model.model is not None, self.model.revision is not None
        refuse("contradicts --shape; leave one of them out", model=model, revision=revision)
        if lock is not None:
            given = {
                field.name: getattr(lock, field.name) != getattr(LockOptions(), field.name) for field in fields(lock)
            }
            refuse("has no effect with --shape, whose locks follow a script; use --schedule", **given)
        from surelock.bench.subject import random_subject

        device, dtype = device_and_dtype(self.model)
        return random_subject(self.shape, self.schedule or "default", device=device, dtype=dtype)

    def report(self, found: BenchResult) -> None:
        """Write and print what was found."""
        content = found.to_dict(command_line())
        if self.out is not None:
            from surelock.bench.result import write_result

            note_written(write_result(self.out, found, content, plots=not self.no_plots))
        if self.json:
            write_json(content)
        else:
            _print(found)


bench = typer.Typer(
    name="bench",
    no_args_is_help=True,
    help="Measure latency, throughput, steps and ops, beside the limits of the machine.",
)


@bench.command()
@with_options("Measurement")
def latency(
    options: BenchOptions,
    lock: LockOptions,
    settings: Annotated[
        str | None,
        option(
            "Requests and generated tokens of each setting, for example 1x64,8x256.",
            default="1x64,4x64 on a CPU, 1x64,1x256,4x256,8x256 on a GPU",
        ),
    ] = None,
    prompt_tokens: Annotated[int, option("Tokens of every prompt.", min=1, max=1 << 20)] = 64,
    no_bound: Annotated[bool, option("Leave out the steps that the bound needs.")] = False,
    baseline: BaselineOption = None,
) -> None:
    """Time per step and of whole runs, with locks and without, one token a step.

    The bound is the speed-up if measuring and locking cost nothing, rebuilt from steps of as many rows.
    """
    options.check_output()
    refuse("contradicts bench latency, which measures both sides; leave it out", no_lock=lock.no_lock)
    with status("starting") as show:
        from surelock.bench.latency import Setting, run_latency

        given = None if settings is None else [Setting.parse(text) for text in settings.split(",")]
        subject = options.subject(lock)
        default = (
            "1x16" if options.quick else "1x64,1x256,4x256,8x256" if subject.device.type == "cuda" else "1x64,4x64"
        )
        found = run_latency(
            subject,
            given or [Setting.parse(text) for text in default.split(",")],
            num_prompt=16 if options.quick else prompt_tokens,
            with_bound=not (options.quick or no_bound),
            baseline=_baseline(baseline, subject),
            progress=show,
        )
    options.report(found)
    if any(not 0.8 <= row["unlocked_drift"] <= 1.25 for row in found.rows) and not options.quick:
        note(
            "steps without locks took another time before and after the locked run: the machine was busy, measure again"
        )


@bench.command()
@with_options("Measurement")
def throughput(
    options: BenchOptions,
    lock: LockOptions,
    num_requests: Annotated[
        int | None, option("Requests to serve.", default="12 on a CPU, 64 on a GPU", min=1, max=1 << 16)
    ] = None,
    tokens: Annotated[
        str | None,
        option(
            "Generated tokens of a request, one of these at random.",
            default="16,32,64 on a CPU, 64,128,256,512,1024 on a GPU",
        ),
    ] = None,
    prompt_tokens: Annotated[
        str | None, option("Tokens of a prompt, from-to.", default="16-64 on a CPU, 16-128 on a GPU")
    ] = None,
    batch_size: Annotated[int | None, option("Requests of a static batch.", default="4 on a CPU, 8 on a GPU")] = None,
    max_running: Annotated[
        int | None,
        option(
            "Requests that run together in continuous batching, as far as their rows fit.",
            default="4 times the batch size",
        ),
    ] = None,
    rate: Annotated[
        float | None, option("Requests a second, arriving as a Poisson process.", default="all at the start")
    ] = None,
    baseline: BaselineOption = None,
) -> None:
    """Tokens a second of many requests of mixed sizes: continuous batching against static batches."""
    options.check_output()
    if rate is not None and not 0 < rate <= 1e6:
        raise ParameterError(f"--rate is {rate:g}; it must be above 0 and at most 1e6 requests a second")
    sizes = parse_numbers("--tokens", tokens) if tokens is not None else None
    prompts = _range("--prompt-tokens", prompt_tokens) if prompt_tokens is not None else None
    with status("starting") as show:
        from surelock.bench.throughput import mixed_jobs, run_throughput

        subject = options.subject(lock)
        on_gpu = subject.device.type == "cuda"
        jobs = mixed_jobs(
            subject,
            num_requests=num_requests or (4 if options.quick else 64 if on_gpu else 12),
            num_tokens=sizes or ([8, 16] if options.quick else [64, 128, 256, 512, 1024] if on_gpu else [16, 32, 64]),
            num_prompt=prompts or ((4, 16) if options.quick else (16, 128) if on_gpu else (16, 64)),
        )
        found = run_throughput(
            subject,
            jobs,
            batch_size=batch_size if batch_size is not None else 2 if options.quick else 8 if on_gpu else 4,
            max_running=max_running,
            rate=rate,
            baseline=_baseline(baseline, subject),
            progress=show,
        )
    options.report(found)


@bench.command()
@with_options("Measurement")
def steps(
    options: BenchOptions,
    requests: Annotated[
        str | None, option("Requests decoded together, one curve each.", default="1,4 on a CPU, 1,4,8 on a GPU")
    ] = None,
    positions: Annotated[int | None, option("Length of every canvas.", default="128 on a CPU, 1088 on a GPU")] = None,
    points: Annotated[int, option("Numbers of rows on each curve.", min=2, max=64)] = 8,
) -> None:
    """Time of a step against the rows it computes, beside the least the machine could take.

    Below the break-even number of rows reading the weights is the cost, and locking cannot pay.
    """
    options.check_output()
    given = parse_numbers("--requests", requests) if requests is not None else None
    with status("starting") as show:
        from surelock.bench.steps import run_steps

        subject = options.subject()
        on_gpu = subject.device.type == "cuda"
        found = run_steps(
            subject,
            num_requests=given or ([1] if options.quick else [1, 4, 8] if on_gpu else [1, 4]),
            num_positions=positions if positions is not None else 32 if options.quick else 1088 if on_gpu else 128,
            num_points=2 if options.quick else points,
            progress=show,
        )
    options.report(found)


@bench.command()
@with_options("Measurement")
def ops(
    options: BenchOptions,
    rows: Annotated[str | None, option("Numbers of rows.", default="16,256 on a CPU, 64,512,2048 on a GPU")] = None,
    positions: Annotated[int, option("Keys each row attends to.", min=1, max=1 << 20)] = 320,
) -> None:
    """Each hot operation against the least time its bytes and FLOPs allow."""
    options.check_output()
    counts = parse_numbers("--rows", rows) if rows is not None else None
    with status("starting") as show:
        from surelock.bench.ops import run_ops

        subject = options.subject()
        default = [16] if options.quick else [64, 512, 2048] if subject.device.type == "cuda" else [16, 256]
        found = run_ops(subject, num_rows=counts or default, num_positions=positions, progress=show)
    options.report(found)


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


def _print(found: BenchResult) -> None:
    console = standard_output()
    for name in ("model", "weights", "lock", "matmul_tflops", "copy_tb_per_s", "break_even_rows"):
        if found.facts.get(name) is not None:
            line = f"{name.replace('_', ' ')}: {shown(name, found.facts[name])}"
            console.print(line, style="dim", soft_wrap=True)
    if "break_even_rows" in found.facts:
        advice = "Below the break-even number of rows a step, over all requests, locking cannot pay."
        console.print(advice, style="dim", soft_wrap=True)
    print_table(found.rows)
