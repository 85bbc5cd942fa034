"""``penstock validate``: hold the simulator against recordings and measured runs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.validate_bench import bench_command
from penstock.cli.validate_measured import measured_command

app = typer.Typer(
    help="Compare with recordings and measured runs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command("schedule")
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
    """Run every recording of the real vLLM scheduler and compare every field: of one engine, or of data-parallel
    ranks in lock-step.

    One line per case: equal, or the first difference. Exit code 1 on any difference.
    """
    from penstock.errors import Problem, UserError
    from penstock.rendering.atomic import atomic_write
    from penstock.validate.data_parallel import is_data_parallel, penstock_group, validate_group
    from penstock.validate.recordings import read_recordings, write_lines
    from penstock.validate.schedule import Result, penstock_engine, report, validate_case
    from penstock.validate.turns import has_turns, validate_turns

    if has_turns(path):
        raise typer.Exit(report([result := validate_turns(path)], lambda _: typer.echo(result.line)))
    engine = penstock_engine(exact_only=exact_only)
    group = penstock_group(exact_only=exact_only)
    results: list[Result] = []
    with ExitStack() as stack:
        output = stack.enter_context(atomic_write(dump)) if dump else None
        for recording in read_recordings(path):
            result: Result = (
                validate_group(recording, group)
                if is_data_parallel(recording)
                else validate_case(recording, engine, as_recorded=as_recorded)
            )
            results.append(result)
            typer.echo(result.line)
            if output is not None:
                output.writelines(write_lines([result.dumped()]))
    if not results:
        raise UserError([Problem(str(path), "holds JSON files, but no recording among them")])
    raise typer.Exit(report(results, typer.echo))


@app.command("pipeline")
def pipeline_command(
    directory: Annotated[Path, typer.Argument(help="A measured run: requests, client, iterations, summary.")],
) -> None:
    """Fit stage costs to half of a real run's iterations, simulate it, and compare with what was measured."""
    from penstock.validate.pipeline import validate_pipeline

    typer.echo(validate_pipeline(directory))


app.command("measured")(measured_command)
app.command("bench")(bench_command)
