"""`surelock eval harness`: tasks of lm-evaluation-harness that generate text."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

from surelock.cli.measuring import ResultFolder, load_measured, note_written, run_facts
from surelock.cli.options import BlockLength, JsonFlag, ModelOptions, option, with_options
from surelock.cli.terminal import standard_output
from surelock.cli.watch import write_json
from surelock.errors import ParameterError, SureLockError, shown_error


@with_options("Tasks")
def harness(
    model: ModelOptions,
    tasks: Annotated[str, option("Names of tasks, with commas between them.")],
    limit: Annotated[int | None, option("Only so many problems of each task.", min=1)] = None,
    num_fewshot: Annotated[int | None, option("Solved examples in each prompt.", default="the task's", min=0)] = None,
    include_path: Annotated[
        Path | None,
        option("Folder with tasks of your own (YAML, which may name Python code: pass only what you trust)."),
    ] = None,
    gen_kwargs: Annotated[str | None, option("Settings in place of the task's.", metavar="NAME=VALUE,...")] = None,
    run_unsafe_code: Annotated[
        bool, option("Let tasks such as humaneval run what the model wrote, on this machine.")
    ] = False,
    chat: Annotated[bool, option("Apply the model's chat template.")] = False,
    rule: Annotated[
        str, option("none, default or paper, with a KL threshold as in paper@5e-3.", "Sampling")
    ] = "default",
    max_gen_toks: Annotated[int, option("Tokens to generate where a task does not say.", "Sampling", min=1)] = 256,
    tokens_per_step: Annotated[int, option("Tokens unmasked in a step.", "Sampling", min=1)] = 1,
    block_length: BlockLength = None,
    seed: Annotated[int, option("Of the noise.", "Sampling")] = 0,
    out: ResultFolder = None,
    json: JsonFlag = False,
) -> None:
    """Run tasks of EleutherAI's lm-evaluation-harness, such as gsm8k, on the model (extra `eval`).

    Tasks and their data come from the Hugging Face hub. Those that ask for likelihoods are refused.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ParameterError("the harness is not installed: pip install 'surelock[eval]'")
    from surelock.results.result_folder import check_folder
    from surelock.results.tables import markdown_table, write_results

    if out is not None:
        check_folder(out)
    llm = load_measured(model)
    import lm_eval
    from lm_eval.tasks import TaskManager

    from surelock.measure.harness import HarnessModel

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown or not names:
        raise ParameterError(
            f"--tasks is {tasks!r:.60}; the harness has no task {', '.join(unknown)!r:.60}: see `lm-eval ls tasks`"
        )
    lm = HarnessModel(
        rule=rule,
        max_gen_toks=max_gen_toks,
        tokens_per_step=tokens_per_step,
        block_length=block_length,
        seed=seed,
        llm=llm,
    )
    try:
        found: Any = lm_eval.simple_evaluate(
            lm,
            tasks=manager.match_tasks(names),
            num_fewshot=num_fewshot,
            limit=limit,
            gen_kwargs=gen_kwargs,
            apply_chat_template=chat,
            task_manager=manager,
            confirm_run_unsafe_code=run_unsafe_code,
            log_samples=out is not None,
        )
    except SureLockError:
        raise
    # What data sets, tasks and metrics that cannot be loaded raise.
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ParameterError(f"--tasks {tasks:.60} cannot be run: {shown_error(error)}") from error
    rows = [row | {"rule": rule} | lm.cost() for row in _rows(found["results"])]
    facts = run_facts(llm) | {
        "lm_eval": lm_eval.__version__,
        "method": "lm-evaluation-harness; active_ratio and flops_ratio (mode `exact`) over all requests of the run.",
    }
    if out is not None:
        samples = _samples(found["samples"])
        title = "lm-evaluation-harness"
        note_written(write_results(out, "harness", title=title, facts=facts, rows=rows, samples=samples))
    if json:
        write_json(facts | {"rows": rows})
    else:
        standard_output().print(markdown_table(rows), soft_wrap=True)


def _rows(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each task and metric; the harness writes `metric,filter` and `metric_stderr,filter`."""
    rows: list[dict[str, Any]] = []
    for task, values in results.items():
        for name, value in values.items():
            metric, comma, chosen = name.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            row = {"task": task, "metric": metric, "filter": chosen, "value": float(value)}
            error = values.get(f"{metric}_stderr,{chosen}")
            rows.append(row | {"standard_error": float(error) if isinstance(error, float) else None})
    return rows


def _samples(by_task: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What was written for each problem and how it was scored, for paired comparisons of two runs."""
    return [
        {
            "task": task,
            "doc_id": sample["doc_id"],
            "filter": sample.get("filter"),
            "target": str(sample["target"]),
            "texts": [str(text) for texts in sample["resps"] for text in texts],
            **{
                metric: float(sample[metric]) for metric in sample["metrics"] if isinstance(sample[metric], int | float)
            },
        }
        for task, samples in by_task.items()
        for sample in samples
    ]
