"""``penstock validate measured``: a measured vLLM run beside its simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def measured_command(
    directory: Annotated[
        Path, typer.Argument(help="A measured run: cluster.json, meta.json, requests.jsonl.")
    ],
    *,
    dataset: Annotated[Path, typer.Option("--dataset", help="The workload that was run.")],
    profile_root: Annotated[
        Path | None, typer.Option("--profile-root", help="Profile bundles; without, the packaged fits.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--report", "--plot", help="Write errors and both over time as an HTML page."),
    ] = None,
    calibrated: Annotated[
        bool,
        typer.Option("--calibrated/--uncalibrated", help="Use the packaged engine overhead of the host."),
    ] = True,
) -> None:
    """Simulate a measured vLLM run with its own options and compare TTFT, TPOT and latency."""
    from penstock.files.use import FileUse
    from penstock.validate.measured import report, validate_measured

    names = ("cluster.json", "meta.json", "requests.jsonl")
    files = FileUse(
        reads={"DIRECTORY": [directory / name for name in names], "--dataset": dataset},
        writes={"--plot": plot},
    )
    files.check()
    comparison = validate_measured(directory, dataset, profile_root=profile_root, calibrated=calibrated)
    files.check()
    typer.echo(report(comparison))
    if plot is not None:
        from penstock.validate.measured_page import write_measured_page

        write_measured_page(comparison, plot)
