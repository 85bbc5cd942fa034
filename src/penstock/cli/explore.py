"""``penstock explore``: search deployments for the best ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli.registry import GuardedCommand

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


class ExploreCommand(GuardedCommand):
    """``--ray`` may stand alone: an address is "auto", "local", or has a colon."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a lone ``--ray`` its meaning before the options are read."""
        given: list[str] = []
        for place, arg in enumerate(args):
            following = args[place + 1] if place + 1 < len(args) else ""
            if (
                arg == "--ray"
                and following not in ("auto", "local")
                and (":" not in following or following[:1] == "-")
            ):
                arg = "--ray=local"
            given.append(arg)
        return super().parse_args(ctx, given)


@app.command(cls=ExploreCommand)
def explore(
    *,
    spec: Annotated[
        Path, typer.Argument(help="The search (YAML): what is served, the space, the objectives.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory of results [SPEC without .yaml, -results]."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Local processes.")] = os.cpu_count() or 1,
    calibration: Annotated[
        Path | None, typer.Option(help="What penstock calibrate wrote; in place of the file's own.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]", help="Run on Ray: a cluster's address, or none for one of its own here."
        ),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Write config and requests of one point of the results, and how to run them."
        ),
    ] = None,
) -> None:
    """Search a space of deployments. A search that was stopped goes on where it was: run it again."""
    from penstock.cli.explore_job import run_explore

    run_explore(spec, output, workers, ray, point, calibration)
