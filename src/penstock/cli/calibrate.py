"""``penstock calibrate``: from a benchmark of a running server to a calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.registry import GuardedCommand

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=GuardedCommand)
def calibrate(
    *,
    cluster: Annotated[
        str, typer.Argument(help="Cluster config (JSON) of the deployment that was benchmarked.")
    ],
    bench: Annotated[
        list[str],
        typer.Option("--bench", help="Result of vllm bench serve --save-detailed, or of another tool."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Write the calibration (JSON) here.")],
    log: Annotated[
        list[str] | None,
        typer.Option("--log", help="The server's log with iteration lines, one for each --bench, in order."),
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write an HTML page here.")] = None,
    cost: Annotated[
        str, typer.Option(help="auto | kernels (factors on kernel times) | fitted (the step cost itself).")
    ] = "auto",
    noise: Annotated[
        bool, typer.Option("--noise", help="Keep the spread of the log's steps, and simulate it.")
    ] = False,
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
    """Fit host, kernels and client of a deployment to a benchmark of it, and check the fit on its second half."""
    from penstock.calibration.fit import Question
    from penstock.cli.calibrate_job import given_prompts, run_calibrate

    question = Question(
        cluster=cluster,
        benches=tuple(bench),
        logs=tuple(log or ()),
        profile_root=profile_root,
        cost=cost,
        noise=noise,
        prompts=given_prompts(dataset, prefix_tokens, prefix_groups),
    )
    run_calibrate(question, output, report)
