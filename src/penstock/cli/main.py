"""``penstock``: the command line. Nothing heavy is imported before a sub-command is called."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
import typer.main

from penstock import __version__
from penstock.cli.registry import LazyGroup, load_command

app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"penstock {__version__}")
        raise typer.Exit


@app.callback()
def penstock(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Simulate LLM serving with pipeline parallelism, without a GPU."""


def main(arguments: list[str] | None = None, command: str | None = None, program: str = "penstock") -> None:
    """Run the command line, or one ``command`` of it under the name of another ``program``; exits."""
    entry = typer.main.get_command(app) if command is None else load_command(command)
    entry.main(args=sys.argv[1:] if arguments is None else arguments, prog_name=program)
