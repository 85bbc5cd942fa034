"""``penstock size``: how many GPUs of which kind, cut how, serve a load within an SLO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.registry import GuardedCommand

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=GuardedCommand)
def size_command(
    *,
    model: Annotated[str, typer.Option(help="A model's name, or the path of its config.json.")],
    rate: Annotated[float, typer.Option(help="Requests per second.")],
    slo: Annotated[str, typer.Option(help="Bounds that must all hold: ttft_p99<2s,tpot_p99<60ms.")],
    hardware: Annotated[str, typer.Option(help="GPUs that there are: H100:8,L40S:8,L4:16.")],
    workload: Annotated[
        str, typer.Option(help="What is served: chat (or sharegpt), or a workload file (JSONL, CSV).")
    ] = "chat",
    arrivals: Annotated[
        str, typer.Option(help="poisson | gamma | constant: drawn at the rate; scaled: the workload's own.")
    ] = "poisson",
    burstiness: Annotated[float, typer.Option(help="Shape of gamma arrivals: below 1 is burstier.")] = 1.0,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="How GPUs stand in nodes.")] = 8,
    price: Annotated[
        list[str] | None, typer.Option(help="LABEL=USD per GPU and hour; else the package's dated list.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What the best is by: gpus (and their price) or joules_per_token.")
    ] = "gpus",
    max_requests: Annotated[
        int, typer.Option(min=100, help="Requests for one deployment, at most, in one run or several.")
    ] = 8000,
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of configs and requests.")] = Path(
        "size-results"
    ),
    report: Annotated[Path | None, typer.Option(help="Write an HTML page here.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Local processes.")] = os.cpu_count() or 1,
    profile_root: Annotated[
        str | None, typer.Option(help="Profile bundles in LLMServingSim's layout.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Find the cheapest deployments that hold an SLO at a rate, for each kind of GPU."""
    from penstock.cli.size_job import SizeOptions, run_size

    run_size(
        SizeOptions(
            model=model,
            rate=rate,
            slo=slo,
            hardware=hardware,
            workload=workload,
            arrivals=arrivals,
            burstiness=burstiness,
            gpus_per_node=gpus_per_node,
            prices=tuple(price or ()),
            objective=objective,
            max_requests=max_requests,
            output=output,
            report=report,
            workers=workers,
            profile_root=profile_root,
            as_json=as_json,
        )
    )
