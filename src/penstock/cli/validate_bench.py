"""``penstock validate bench``: a benchmark of a running server beside its simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench_command(
    cluster: Annotated[
        str, typer.Argument(help="Cluster config (JSON) of the deployment that was benchmarked.")
    ],
    *,
    bench: Annotated[str, typer.Option("--bench", help="Result of vllm bench serve --save-detailed.")],
    calibration: Annotated[
        str | None,
        typer.Option("--calibration", help="What penstock calibrate wrote; without, the plain costs."),
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the comparison as JSON here.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write an HTML page here.")] = None,
    log: Annotated[
        str | None,
        typer.Option("--log", help="The server's log, for the prefix hits; no times are taken from it."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="The workload that was sent, in order, with token ids: for prefix hits."),
    ] = None,
    prefix_tokens: Annotated[
        int,
        typer.Option(
            min=0, help="Tokens that prompts share, where the server caches prefixes and no log says it."
        ),
    ] = 0,
    prefix_groups: Annotated[
        int, typer.Option(min=1, help="How many different such prefixes there are.")
    ] = 1,
    profile_root: Annotated[
        str | None, typer.Option(help="Profile bundles in LLMServingSim's layout.")
    ] = None,
) -> None:
    """Simulate the requests of a benchmark and compare TTFT, TPOT, ITL, E2E and throughput. Nothing is fitted."""
    from penstock.cli.calibrate_job import given_prompts, run_validate_bench

    run_validate_bench(
        cluster,
        bench,
        calibration,
        log=log,
        prompts=given_prompts(dataset, prefix_tokens, prefix_groups),
        profile_root=profile_root,
        json_path=json_path,
        report=report,
    )
