"""The program `surelock`: its commands, and how errors leave it."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated, Any, Final, cast

import typer
from typer.core import TyperGroup

from surelock.cli.bench import bench
from surelock.cli.calibrate import calibrate
from surelock.cli.chat import chat
from surelock.cli.doctor import doctor
from surelock.cli.eval_harness import harness
from surelock.cli.eval_tasks import tasks
from surelock.cli.eval_text import text
from surelock.cli.explain import explain
from surelock.cli.generate import generate
from surelock.cli.infill import InfillCommand, infill
from surelock.cli.run_batch import run_batch
from surelock.cli.serve import serve
from surelock.cli.terminal import open_standard_streams, report_error
from surelock.cli.verify import verify
from surelock.errors import ModelError, ParameterError, PromptError, SureLockError

USER_ERRORS: Final = (ParameterError, PromptError, ModelError)
EXIT_FAILURE: Final = 1
EXIT_USER_ERROR: Final = 2

# ClickException, from click itself or from the copy of it that newer Typer versions carry.
_COMMAND_LINE_ERROR: Final = cast("type[Exception]", typer.BadParameter.__mro__[2])


class OneLineErrors(TyperGroup):
    """Ends the process with one red line for a mistake, and quietly when interrupted or when stdout is closed."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run a command and exit: 0, 1 for a failure, 2 for the user's mistake, 130 after Ctrl-C."""
        open_standard_streams()
        try:
            code = super().main(*arguments, **(options | {"standalone_mode": False}))
            sys.stdout.flush()
        except SureLockError as error:
            report_error(str(error))
            code = EXIT_USER_ERROR if isinstance(error, USER_ERRORS) else EXIT_FAILURE
        except _COMMAND_LINE_ERROR as error:
            # Pydantic, which Typer checks values with, opens its messages so.
            report_error(cast("Any", error).format_message().replace("Value error, ", ""))
            code = EXIT_USER_ERROR
        except BrokenPipeError:
            # The interpreter flushes stdout once more as it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = EXIT_FAILURE
        except OSError as error:
            report_error(str(error))
            code = EXIT_FAILURE
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="surelock",
    cls=OneLineErrors,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
evaluate = typer.Typer(
    name="eval",
    no_args_is_help=True,
    help="Measure what locking does to results: right answers, quality of text, agreement, cost.",
)
for each in (tasks, text, harness):
    evaluate.command()(each)
app.command()(generate)
app.command()(chat)
app.command(cls=InfillCommand)(infill)
app.command()(serve)
app.command()(verify)
app.command()(explain)
app.command()(calibrate)
app.add_typer(bench)
app.add_typer(evaluate)
app.command()(run_batch)
app.command()(doctor)


@app.callback()
def root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", metavar="", help="Show the version and exit.")] = False,
) -> None:
    """Decode masked diffusion language models without computing a converged token in every step."""
    if show_version:
        typer.echo(f"surelock {version('surelock')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(EXIT_USER_ERROR)
