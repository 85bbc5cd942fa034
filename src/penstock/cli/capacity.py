"""``penstock capacity``: the highest request rate that holds an SLO."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli.described import with_options
from penstock.cli.registry import GuardedCommand
from penstock.spec.option_table import search_options

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=GuardedCommand)
@with_options(search_options())
def capacity(
    *,
    cluster: Annotated[str, typer.Argument(help="Cluster config (JSON).")],
    dataset: Annotated[str, typer.Option(help="Workload whose requests are served (JSONL, CSV).")],
    slo: Annotated[str, typer.Option(help="Bounds that must all hold: ttft_p99<2s,tpot_p99<50ms.")],
    arrivals: Annotated[
        str, typer.Option(help="poisson | gamma | constant: drawn at the rate; scaled: the workload's own.")
    ] = "poisson",
    burstiness: Annotated[float, typer.Option(help="Shape of gamma arrivals: below 1 is burstier.")] = 1.0,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Realisations behind the interval.")] = 5,
    tolerance: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Relative width of the interval that is precise enough.")
    ] = 0.05,
    max_requests: Annotated[
        int, typer.Option(min=100, help="Runs are made longer up to so many requests.")
    ] = 8000,
    curve: Annotated[
        str | None, typer.Option(help="Write the latency-over-load curve here (.csv or .html), and print it.")
    ] = None,
    report: Annotated[str | None, typer.Option(help="Write an HTML page here.")] = None,
    output: Annotated[str | None, typer.Option(help="Write everything found as JSON here.")] = None,
    **options: Any,
) -> None:
    """Find the highest request rate at which a deployment holds an SLO, and what limits it."""
    from penstock.cli.capacity_job import CapacityQuestion, run_capacity

    run_capacity(
        CapacityQuestion(
            cluster=cluster,
            dataset=dataset,
            slo=slo,
            arrivals=arrivals,
            burstiness=burstiness,
            seeds=seeds,
            tolerance=tolerance,
            max_requests=max_requests,
            curve=curve,
            report=report,
            output=output,
            options=options,
        )
    )
