"""``penstock serve``: a deployment that answers as vLLM's API server would, in its time."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli.described import with_options
from penstock.cli.registry import GuardedCommand
from penstock.cli.run import DEPLOYMENT
from penstock.spec.option_table import run_options

DEFAULT_ANSWERS = "lognormal:256,0.8"
_NOT_FOR_SERVERS = ("num_reqs", "request_rate", "max_concurrency", "record", "log_interval")
ADDRESS = "Address"
ANSWERS = "Answers"
RECORDS = "What is kept and shown"

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _option(name: str, metavar: str | None, text: str, panel: str, *more: str) -> Any:
    return typer.Option(name, *more, metavar=metavar, help=text, rich_help_panel=panel)


@app.command(cls=GuardedCommand)
@with_options([option for option in run_options() if option.name not in _NOT_FOR_SERVERS])
def serve(
    cluster: Annotated[str | None, typer.Argument(help="Cluster config (JSON).", show_default=False)] = None,
    *,
    cluster_config: Annotated[
        str | None, typer.Option("--cluster-config", metavar="PATH", help="The same.")
    ] = None,
    model: Annotated[
        str | None, _option("--model", "NAME|PATH", "A model of penstock models.", DEPLOYMENT)
    ] = None,
    hardware: Annotated[
        str | None, _option("--hardware", "LABEL", "Hardware of penstock hardware.", DEPLOYMENT)
    ] = None,
    tp: Annotated[
        int | None,
        _option("--tp", "N", "GPUs that share each layer [1].", DEPLOYMENT, "--tensor-parallel-size"),
    ] = None,
    pp: Annotated[
        int | None, _option("--pp", "N", "Pipeline stages [1].", DEPLOYMENT, "--pipeline-parallel-size")
    ] = None,
    replicas: Annotated[
        int | None, _option("--replicas", "N", "Instances behind the router [1].", DEPLOYMENT)
    ] = None,
    host: Annotated[str, _option("--host", "ADDRESS", "Where to listen.", ADDRESS)] = "127.0.0.1",
    port: Annotated[int, _option("--port", "N", "0 takes any that is free.", ADDRESS)] = 8000,
    each: Annotated[
        bool,
        _option("--each", None, "A port for every instance from --port on, and no router.", ADDRESS),
    ] = False,
    served_model_name: Annotated[
        list[str] | None,
        _option("--served-model-name", "NAME", "What clients call the model; may be repeated.", ADDRESS),
    ] = None,
    max_queue: Annotated[
        int, _option("--max-queue", "N", "Answer 503 while N requests wait; 0 = never.", ADDRESS)
    ] = 0,
    time_scale: Annotated[
        float, _option("--time-scale", "X", "Simulated seconds per second.", ANSWERS)
    ] = 1.0,
    answer_lengths: Annotated[
        str,
        _option(
            "--answer-lengths",
            "DISTRIBUTION",
            "Tokens of answers that a request leaves open, as in penstock workload generate.",
            ANSWERS,
        ),
    ] = DEFAULT_ANSWERS,
    text: Annotated[
        str, _option("--text", "filler|echo", "What answers say: words, or the prompt again.", ANSWERS)
    ] = "filler",
    tokenizer: Annotated[
        str | None,
        _option("--tokenizer", "PATH", "A tokenizer.json, or its directory [an approximation].", ANSWERS),
    ] = None,
    record: Annotated[
        str | None,
        _option("--record", "DIR", "Write the session there at the end: workload and results.", RECORDS),
    ] = None,
    log_stats: Annotated[
        bool, _option("--log-stats", None, "vLLM's line every 10 seconds.", RECORDS)
    ] = False,
    enable_logging_iteration_details: Annotated[
        bool,
        _option("--enable-logging-iteration-details", None, "vLLM's line for every step.", RECORDS),
    ] = False,
    **options: Any,
) -> None:
    """Answer vLLM's API in the time that a cluster would take, without a GPU.

    Without a file: penstock serve --model meta-llama/Llama-3.1-8B --hardware H100 --pp 2
    """
    from penstock.cli.job import Inputs
    from penstock.cli.serve_job import Wishes, serve_job
    from penstock.cli.without_files import Deployment

    deployment = Deployment(model=model, hardware=hardware, tp=tp, pp=pp, replicas=replicas)
    wishes = Wishes(
        host=host,
        port=port,
        each=each,
        time_scale=time_scale,
        answer_lengths=answer_lengths,
        text=text,
        max_queue=max_queue,
        served_names=tuple(served_model_name or ()),
        tokenizer=tokenizer,
        record=record,
        logs_stats=log_stats,
        logs_iterations=enable_logging_iteration_details,
    )
    serve_job(Inputs(cluster=cluster, cluster_config=cluster_config, deployment=deployment), options, wishes)
