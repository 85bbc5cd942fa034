"""``penstock export``: runs for other simulators."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli.described import with_options
from penstock.cli.registry import GuardedCommand
from penstock.spec.option_table import search_options

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Write a run for other simulators.",
)


@app.callback()
def export() -> None:
    """Write a run for other simulators."""


@app.command("chakra", cls=GuardedCommand)
@with_options(search_options())
def chakra(
    *,
    cluster: Annotated[str, typer.Argument(help="Cluster config (JSON).")],
    dataset: Annotated[str, typer.Option(help="Workload (JSONL, CSV).")],
    output: Annotated[str, typer.Option(help="Directory for the files, one per NPU: NAME.0.et and on.")],
    name: Annotated[str, typer.Option(help="What the files are called.")] = "llm",
    instance: Annotated[int, typer.Option(min=0, help="Whose steps.")] = 0,
    steps: Annotated[str, typer.Option(metavar="FROM:TO", help="Which, counted from 0.")] = "0:4",
    durations: Annotated[
        str, typer.Option(help="us: as the schema says; ns: as LLMServingSim's ASTRA-Sim reads it.")
    ] = "us",
    **options: Any,
) -> None:
    """Write execution traces (MLCommons Chakra) of chosen steps, for ASTRA-Sim."""
    from penstock.cli.export_job import ChakraQuestion, export_chakra

    export_chakra(
        ChakraQuestion(
            cluster=cluster,
            dataset=dataset,
            output=output,
            name=name,
            instance=instance,
            steps=steps,
            durations=durations,
            options=options,
        )
    )
