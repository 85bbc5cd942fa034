"""``penstock serve``: a deployment that answers as vLLM's API server would, in its time."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli.described import with_options
from penstock.cli.registry import GuardedCommand
from penstock.spec.option_table import run_options

DEFAULT_ANSWERS = "lognormal:256,0.8"
_NOT_FOR_SERVERS = ("num_reqs", "request_rate", "max_concurrency", "record", "log_interval")

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(cls=GuardedCommand)
@with_options([option for option in run_options() if option.name not in _NOT_FOR_SERVERS])
def serve(
    *,
    cluster_config: Annotated[
        str | None, typer.Option("--cluster-config", metavar="PATH", help="Cluster config (JSON); required.")
    ] = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="0 takes any that is free.")] = 8000,
    time_scale: Annotated[
        float, typer.Option("--time-scale", metavar="X", help="Simulated seconds per second.")
    ] = 1.0,
    answer_lengths: Annotated[
        str,
        typer.Option(
            "--answer-lengths",
            metavar="DISTRIBUTION",
            help="Tokens of answers that a request leaves open: fixed, uniform, lognormal, zipf.",
        ),
    ] = DEFAULT_ANSWERS,
    text: Annotated[
        str, typer.Option("--text", metavar="filler|echo", help="What answers say: words, or the prompt.")
    ] = "filler",
    max_queue: Annotated[
        int, typer.Option("--max-queue", metavar="N", help="Answer 503 while N requests wait; 0 = never.")
    ] = 0,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            "--served-model-name", metavar="NAME", help="What clients call the model; may be repeated."
        ),
    ] = None,
    **options: Any,
) -> None:
    """Answer vLLM's API in the time that the cluster of a config would take, without a GPU."""
    from penstock.cli.serve_job import serve_job

    serve_job(
        cluster_config,
        {name: value for name, value in options.items() if value is not None},
        host=host,
        port=port,
        time_scale=time_scale,
        answer_lengths=answer_lengths,
        text=text,
        max_queue=max_queue,
        served_names=tuple(served_model_name or ()),
    )
