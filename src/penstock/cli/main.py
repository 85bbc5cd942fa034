"""``penstock``: the command line. Nothing heavy is imported before a sub-command is called."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
import typer.main

from penstock import __version__
from penstock.cli.guard import exit_codes, flush_stdout, orderly_end, plain_streams
from penstock.cli.registry import LazyGroup, load_command
from penstock.files.use import noting_reads

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


def main(
    arguments: list[str] | None = None,
    command: str | None = None,
    program: str = "penstock",
    entry: typer.Typer | None = None,
) -> None:
    """Run the command line, one ``command`` of it, or another ``entry``, under the name of ``program``; exits."""
    plain_streams()
    with suppress(OSError):
        sys.path.append(str(Path.cwd()))  # a user's router or policy is looked for here too, as by python -m
    with exit_codes(), orderly_end(), noting_reads():
        called = typer.main.get_command(entry or app) if command is None else load_command(command)
        try:
            called.main(args=sys.argv[1:] if arguments is None else arguments, prog_name=program)
        finally:
            flush_stdout()
