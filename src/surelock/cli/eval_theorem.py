"""`surelock eval theorem`: Theorem 1 of the paper held against runs without locks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from surelock.cli.loading import load_llm
from surelock.cli.measuring import measuring_status
from surelock.cli.options import (
    OUTPUT_PANEL,
    JsonFlag,
    LockOptions,
    MaxTokens,
    ModelOptions,
    SamplingOptions,
    sampling_params,
    with_options,
)
from surelock.cli.prompt_set import MEASURE_PANEL, PromptSetOptions, run_facts
from surelock.cli.terminal import note, standard_output
from surelock.cli.watch import write_json
from surelock.errors import ParameterError


@with_options
def theorem(
    model: ModelOptions,
    sampling: SamplingOptions,
    lock: LockOptions,
    source: PromptSetOptions,
    max_tokens: MaxTokens = 64,
    thresholds: Annotated[
        str, typer.Option(help="Further KL thresholds, with commas between them.", rich_help_panel=MEASURE_PANEL)
    ] = "5e-3,5e-2",
    delta: Annotated[
        float, typer.Option(help="Deviation the implied thresholds are for.", rich_help_panel=MEASURE_PANEL)
    ] = 0.05,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the CSV, JSON and Markdown files and the pictures.",
            show_default=False,
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    no_plots: Annotated[
        bool, typer.Option("--no-plots", metavar="", help="Draw nothing.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Measure the constants of the paper's Theorem 1 and what its bound is worth, on runs without locks."""
    rule = lock.lock_params(model)
    if rule is None:
        raise ParameterError("--no-lock contradicts eval theorem, which asks what the rule would lock; leave it out")
    if not 0 < delta <= 1:
        raise ParameterError(f"--delta is {delta:g}; it must be above 0 and at most 1")
    further = _numbers("--thresholds", thresholds)
    params = replace(sampling_params(max_tokens, sampling, lock, model), lock=None)
    if params.seed is None:
        params = replace(params, seed=0)
    if out is not None:
        # Late, like all that brings torch.
        from surelock.eval.figure import check_plots
        from surelock.result_folder import check_folder

        check_folder(out)
        if not no_plots:
            check_plots()
    llm = load_llm(model)
    canvases = source.canvases(llm, max_tokens, num_on_cpu=16, num_on_gpu=128)
    from surelock.eval.dense import DenseDecoder
    from surelock.eval.theorem import floor_of, measure_theorem
    from surelock.eval.theorem_text import theorem_markdown
    from surelock.eval.trace import trace_all

    with measuring_status() as show:
        runs = trace_all(
            DenseDecoder(llm.transformer),
            canvases,
            params,
            progress=lambda done, total: show(f"decoded {done} of {total} prompts"),
        )
        show("measuring")
        report = measure_theorem(runs, rule, thresholds=further, delta=delta, floor=floor_of(llm.dtype))
    facts = run_facts(llm) | {
        "prompts": source.name,
        "max_tokens": max_tokens,
        "steps": params.steps or max_tokens,
        "block_length": params.block_length,
        "temperature": params.temperature,
        **report.facts,
    }
    content = facts | report.to_dict()
    markdown = theorem_markdown(report, facts)
    if out is not None:
        import orjson

        from surelock.eval.result_files import csv_table

        files: dict[str, str | bytes] = {
            "theorem.json": orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n",
            "theorem.md": markdown,
            "theorem.csv": csv_table(report.rules),
        }
        if report.by_age:
            files["theorem_age.csv"] = csv_table(report.by_age)
        if report.by_uncertainty:
            files["theorem_uncertainty.csv"] = csv_table(report.by_uncertainty)
        if not no_plots and report.by_age:
            from surelock.eval.figure import image
            from surelock.eval.theorem_plot import draw_theorem

            figure = draw_theorem(report, f"Theorem 1: {llm.name}, {facts['dtype']}, {max_tokens} tokens")
            files |= {f"theorem.{suffix}": image(figure, suffix) for suffix in ("png", "svg")}
        for name, data in files.items():
            (out / name).write_bytes(data if isinstance(data, bytes) else data.encode())
            note(f"wrote {out / name}")
    if json:
        write_json(content)
    else:
        standard_output().print(markdown, markup=False, highlight=False, soft_wrap=True)


def _numbers(option: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = [0.0]
    if not all(0 < number <= 1e3 for number in numbers):
        raise ParameterError(f"{option} is {text!r:.60}; write numbers from 0 to 1000 with commas between them")
    return numbers
