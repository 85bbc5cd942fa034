"""LLMServingSim's ``bench``: its comparison of a measured run with a simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.errors import UserError

RUN_REFUSED = (
    "bench run drives a real vLLM on its GPUs, which Penstock does not: run LLMServingSim's own, whose directory "
    "'bench validate' and 'penstock validate measured' read, or 'vllm bench serve --save-result --save-detailed', "
    "whose file 'penstock calibrate' and 'penstock validate bench' read"
)


def validate_command(
    *,
    bench_dir: Annotated[
        Path,
        typer.Option("--bench-dir", help="What bench run wrote: meta.json, requests.jsonl, timeseries.csv."),
    ],
    sim_csv: Annotated[Path, typer.Option("--sim-csv", help="The CSV of requests of a simulation.")],
    sim_log: Annotated[
        Path | None, typer.Option("--sim-log", help="Its output, for throughput over time.")
    ] = None,
    output_subdir: Annotated[
        str, typer.Option(help="Of the bench directory, for what is written.")
    ] = "validation",
    prefix: Annotated[str, typer.Option(help="Before the names of the files.")] = "",
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
) -> None:
    """Compare a simulation, here or of LLMServingSim, with a measured run: summary.txt and a page."""
    from penstock.files.use import FileUse
    from penstock.files.writing import all_or_nothing, atomic_write
    from penstock.validate.measured import report
    from penstock.validate.measured_page import write_measured_page
    from penstock.validate.simulated_csv import compare_with_csv

    directory = bench_dir / output_subdir
    summary, page = directory / f"{prefix}summary.txt", directory / f"{prefix}validation.html"
    names = ("meta.json", "requests.jsonl", "timeseries.csv")
    files = FileUse(
        reads={
            "--bench-dir": [bench_dir / name for name in names],
            "--sim-csv": sim_csv,
            "--sim-log": sim_log,
        },
        writes={"summary.txt": summary, "validation.html": page},
    )
    files.check()
    comparison = compare_with_csv(bench_dir, sim_csv, sim_log)
    text = report(comparison)
    files.check()
    with all_or_nothing():
        with atomic_write(summary) as file:
            file.write(text + "\n")
        write_measured_page(comparison, page, title)
    typer.echo(text)
    typer.echo(f"wrote {summary} and {page}", err=True)


def run_command() -> None:
    """Refused: it drives a real vLLM. Says what to measure with in its place."""
    raise UserError(RUN_REFUSED)
