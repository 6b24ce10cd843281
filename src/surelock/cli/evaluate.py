"""`surelock eval`: what locking does to results. Each command is a function in a file of its own."""

from __future__ import annotations

import typer

from surelock.cli.eval_tasks import tasks

evaluate = typer.Typer(
    name="eval",
    no_args_is_help=True,
    help="Measure what locking does to results: right answers, agreement, cost.",
)
evaluate.command()(tasks)
