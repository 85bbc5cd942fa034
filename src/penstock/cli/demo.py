"""``penstock demo``: a packaged run, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.registry import GuardedCommand

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
REPORT = "penstock-demo.html"


@app.command(cls=GuardedCommand)
def demo(
    *,
    report: Annotated[Path, typer.Option(help="Write the report here.")] = Path(REPORT),
    open_report: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
) -> None:
    """Serve 100 requests on Llama-3.1-8B over two pipeline stages, print what happened, and write a report."""
    from penstock.cli.examples import CLUSTER, WORKLOAD, example
    from penstock.cli.job import Inputs, Outputs, run_job

    inputs = Inputs(cluster=str(example(CLUSTER)), dataset=str(example(WORKLOAD)))
    options = {"log_interval": 0.0, "dtype": "float16"}
    run_job(inputs, options, Outputs(report=str(report)), "WARNING")
    typer.echo(f"\nopen {report.resolve().as_uri()} in a browser\nnext: penstock init, then change its files")
    if open_report:
        import webbrowser

        webbrowser.open(report.resolve().as_uri())
