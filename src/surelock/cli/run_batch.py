"""`surelock run-batch`: a file of rows in, a file of answers out, whatever happens in between."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from orjson import loads

from surelock.cli.loading import load_llm
from surelock.cli.options import DecodingOptions, MaxTokens, option, refuse, with_options
from surelock.cli.progress import BatchProgress
from surelock.cli.prompts import checked_text
from surelock.cli.terminal import note, print_facts, report_error, standard_error
from surelock.cli.watch import write_json
from surelock.config import EngineConfig
from surelock.errors import JobBusyError

if TYPE_CHECKING:
    from surelock.batch.job import Outcome

# EX_TEMPFAIL of sysexits.h: schedulers know it as "try again".
EXIT_UNFINISHED: Final = 75
# EX_DATAERR.
EXIT_NO_ANSWER: Final = 65


@with_options("Job")
def run_batch(
    decoding: DecodingOptions,
    input_file: Annotated[
        Path,
        option("Rows: .jsonl in OpenAI's batch format or with a prompt each, .csv or .parquet.", None, "--input", "-i"),
    ],
    output: Annotated[
        Path,
        option(
            "Answers in the order of the rows, .jsonl, .csv or .parquet; NAME.errors.jsonl: the rows that failed.",
            None,
            "--output",
            "-o",
        ),
    ],
    prompt_column: Annotated[str, option("Where rows that are not OpenAI's have their text.")] = "prompt",
    max_tokens: MaxTokens = 128,
    max_batch_size: Annotated[int, option("Rows decoded at the same time.")] = EngineConfig().max_batch_size,
    force_new: Annotated[bool, option("Forget what was done before and replace the output.")] = False,
    retry_errors: Annotated[bool, option("Run the rows again that failed before.")] = False,
    ray: Annotated[bool, option("Decode on the Ray cluster of RAY_ADDRESS, or on one started here.")] = False,
    ray_actors: Annotated[int | None, option("Models on the cluster.", default="one for each GPU", min=1)] = None,
    json: Annotated[bool, option("Print the summary as JSON on stdout.", "Output")] = False,
) -> None:
    """Decode every row of a file; stopped at any moment, the same command goes on where it was.

    SIGTERM and Ctrl-C end it in order with exit code 75. A row that fails is a line in the file of errors; where every
    row fails the exit code is 65.
    """
    checked_text(prompt_column, "--prompt-column")
    params = decoding.params(max_tokens)
    config = EngineConfig(max_batch_size=max_batch_size, num_threads=decoding.model.threads)

    # Imported here because it brings torch, which `surelock --help` does not need.
    from surelock.batch.decode import local_worker
    from surelock.batch.job import Job, run_job
    from surelock.batch.stop import Stop

    refuse("has no effect without --ray: add it, or leave this out", ray_actors=ray_actors is not None and not ray)
    model = decoding.model
    # Where and how fast it runs does not make it another job.
    asked = {name: value for name, value in model.for_llm().items() if name != "offline"}
    job = Job(
        input=input_file,
        output=output,
        params=params,
        model=asked,
        prompt_column=prompt_column,
        force_new=force_new,
        retry_errors=retry_errors,
    )
    if ray:
        from surelock.batch.ray_worker import ray_worker

        worker = ray_worker(model.for_llm(), config, num_actors=ray_actors)
    else:
        worker = local_worker(lambda: load_llm(model, config))
    stop = Stop()
    try:
        with stop.listening(), BatchProgress(standard_error()) as bar:
            outcome = run_job(job, worker, stop=stop, on_progress=bar.update)
    except KeyboardInterrupt:
        note(f"stopped; what is done is kept. Resume with: {resume_command(sys.argv[1:])}")
        raise typer.Exit(EXIT_UNFINISHED) from None
    except JobBusyError as error:
        report_error(str(error))
        raise typer.Exit(EXIT_UNFINISHED) from None
    if json:
        write_json(_summary(outcome))
    else:
        _print_summary(outcome)
    if outcome.errors is not None and outcome.totals.num_failed == outcome.totals.num_done:
        with outcome.errors.open("rb") as file:
            first = loads(file.readline())["error"]["message"]
        report_error(f"none of the {outcome.totals.num_done} rows has an answer; the first: {first}")
        raise typer.Exit(EXIT_NO_ANSWER)


def resume_command(arguments: list[str]) -> str:
    """The command line that goes on with a job: the same, without what would begin it anew."""
    return shlex.join(["surelock", *(each for each in arguments if each not in ("--force-new", "--retry-errors"))])


def _summary(outcome: Outcome) -> dict[str, Any]:
    totals, progress = outcome.totals, outcome.progress
    return {
        "output": str(outcome.output),
        "errors": None if outcome.errors is None else str(outcome.errors),
        "rows": totals.num_done,
        "rows_failed": totals.num_failed,
        "rows_done_before": totals.num_done if progress is None else progress.before.num_done,
        "generation_tokens": totals.num_tokens,
        "tokens_per_second": None if progress is None else progress.tokens_per_second,
        "flops_saved": totals.saved,
        "seed": outcome.seed,
    }


def _print_summary(outcome: Outcome) -> None:
    totals, progress = outcome.totals, outcome.progress
    rows = [("rows", f"{totals.num_done - totals.num_failed} answered, {totals.num_failed} failed")]
    if progress is None:
        rows.append(("this run", "nothing was left to do"))
    elif progress.before.num_done:
        rows.append(("done before", f"{progress.before.num_done} rows"))
    rate = "" if progress is None else f", {progress.tokens_per_second:.0f} per second"
    if progress is not None and progress.num_bytes_dropped:
        rows.append(("journal", f"{progress.num_bytes_dropped} bytes that were no whole record were cut off"))
    rows += [
        ("tokens", f"{totals.num_tokens}{rate}"),
        ("FLOPs saved by locking", f"{totals.saved:.0%}"),
        ("seed", str(outcome.seed)),
        ("output", str(outcome.output)),
    ]
    if outcome.errors is not None:
        rows.append(("errors", f"{outcome.errors}; --retry-errors runs these rows again"))
    print_facts(standard_error(), rows)
