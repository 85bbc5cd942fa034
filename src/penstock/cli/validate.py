"""``penstock validate``: hold the simulator against recordings and measured runs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.registry import GuardedCommand, GuardedGroup
from penstock.cli.validate_bench import bench_command
from penstock.cli.validate_measured import measured_command

app = typer.Typer(
    cls=GuardedGroup,
    help="Compare with recordings and measured runs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command("schedule", cls=GuardedCommand)
def schedule_command(
    path: Annotated[
        Path,
        typer.Argument(
            help="A recording, a directory of *.json, *.jsonl and their .gz, or of a real run's turns.jsonl.gz."
        ),
    ],
    *,
    dump: Annotated[
        Path | None, typer.Option(help="Write our iterations and requests, JSON Lines, one line per case.")
    ] = None,
    as_recorded: Annotated[
        bool,
        typer.Option(
            "--as-recorded", help="Let in requests that the real server refuses before its scheduler."
        ),
    ] = False,
    exact_only: Annotated[
        bool, typer.Option("--exact-only", help="Keep the engine on its per-request path.")
    ] = False,
) -> None:
    """Run every recording of the real vLLM and compare every field: of one engine, of data-parallel ranks in
    lock-step, of prefill and decode apart, of a CPU tier.

    One line per case: equal, or the first difference. Exit code 1 on any difference.
    """
    from penstock.errors import Problem, UserError
    from penstock.files.use import FileUse
    from penstock.files.writing import atomic_write
    from penstock.validate.kinds import validate_recording
    from penstock.validate.recordings import read_recordings, recording_files, write_lines
    from penstock.validate.schedule import Result, report
    from penstock.validate.turns import has_turns, validate_turns

    FileUse(reads={"PATH": recording_files(path)}, writes={"--dump": dump}).check()
    if has_turns(path):
        if dump is not None:
            raise UserError([Problem("--dump", f"{path} holds a real run's turns, which are not dumped")])
        raise typer.Exit(report([result := validate_turns(path)], lambda _: typer.echo(result.line)))
    results: list[Result] = []
    with ExitStack() as stack:
        output = stack.enter_context(atomic_write(dump)) if dump else None
        for recording in read_recordings(path):
            result = validate_recording(recording, as_recorded=as_recorded, exact_only=exact_only)
            results.append(result)
            typer.echo(result.line)
            if output is not None:
                output.writelines(write_lines([result.dumped()]))
    if not results:
        raise UserError([Problem(str(path), "holds JSON files, but no recording among them")])
    raise typer.Exit(report(results, typer.echo))


@app.command("pipeline", cls=GuardedCommand)
def pipeline_command(
    directory: Annotated[Path, typer.Argument(help="A measured run: requests, client, iterations, summary.")],
) -> None:
    """Fit stage costs to half of a real run's iterations, simulate it, and compare with what was measured."""
    from penstock.validate.pipeline import validate_pipeline

    typer.echo(validate_pipeline(directory))


app.command("measured", cls=GuardedCommand)(measured_command)
app.command("bench", cls=GuardedCommand)(bench_command)
