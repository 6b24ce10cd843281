"""`surelock report`: results of experiments as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surelock.cli.options import OUTPUT_PANEL
from surelock.cli.terminal import note


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that surelock experiment wrote to.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The page.", show_default="DIR/report.html", rich_help_panel=OUTPUT_PANEL),
    ] = None,
) -> None:
    """Bind the results of experiments into one HTML page that needs no network and no other file."""
    from surelock.experiments.report import write_report

    path = out or folder / "report.html"
    bound = write_report(folder, path)
    note(f"wrote {path}: {', '.join(bound)}")
