"""``penstock compare``: results directories side by side."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.registry import GuardedCommand

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=GuardedCommand)
def compare_command(
    directories: Annotated[
        list[str], typer.Argument(help="Two or more directories written by run --results.")
    ],
    *,
    report: Annotated[str | None, typer.Option(help="Write a page with all runs in each chart here.")] = None,
) -> None:
    """Say what differs between runs and what came of it, relative to the first."""
    from penstock.errors import Problem, UserError
    from penstock.files.use import FileUse
    from penstock.rendering.compare import load_runs, render_comparison, write_comparison
    from penstock.rendering.result import SAVED_FILES

    if len(directories) < 2:
        raise UserError([Problem("DIRECTORIES", "give two or more")])
    reads = [Path(directory) / name for directory in directories for name in SAVED_FILES]
    FileUse(reads={"DIRECTORIES": reads}, writes={"--report": report}).check()
    views = load_runs(directories)
    typer.echo(render_comparison(views, shutil.get_terminal_size((120, 24)).columns))
    if report is not None:
        write_comparison(views, report)
        typer.echo(f"wrote {report}", err=True)
