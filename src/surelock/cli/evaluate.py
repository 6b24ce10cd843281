"""`surelock eval`: what locking does to results. Each command is a function in a file of its own."""

from __future__ import annotations

import typer

from surelock.cli.eval_harness import harness
from surelock.cli.eval_tasks import tasks
from surelock.cli.eval_text import text

evaluate = typer.Typer(
    name="eval",
    no_args_is_help=True,
    help="Measure what locking does to results: right answers, quality of text, agreement, cost.",
)
evaluate.command()(tasks)
evaluate.command()(text)
evaluate.command()(harness)
