"""``penstock run``: one workload served on one cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from penstock.cli.described import integer_or_text, with_options
from penstock.cli.registry import GuardedCommand
from penstock.errors import Problem
from penstock.spec.option_table import Option, run_options
from penstock.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """What another simulator's options come to: ``options`` of ``penstock run`` in their place, ``notices`` of those
    without effect, ``problems`` of those that cannot be honoured. ``run_id`` stands for ``{run_id}`` in paths of
    outputs; ``default_requests`` are served where no dataset is given, by the cluster config or its path;
    ``logs_words``: the throughput log is repeated in LLMServingSim's words."""

    options: Mapping[str, Any]
    run_id: str | None = None
    default_requests: Callable[[str | Mapping[str, Any] | None], Workload] | None = None
    logs_words: bool = False
    notices: Sequence[str] = ()
    problems: Sequence[Problem] = field(default_factory=list[Problem])


Translate = Callable[[Mapping[str, Any]], Translation]


OUTPUT = "Output"
DEPLOYMENT = "Deployment, where there is no cluster config"


def _path(name: str, text: str, panel: str = OUTPUT) -> Any:
    return typer.Option(name, metavar="PATH", help=text, rich_help_panel=panel)


def _count(*names: str, text: str) -> Any:
    return typer.Option(*names, metavar="N", help=text, rich_help_panel=DEPLOYMENT, parser=integer_or_text)


Text = str | None


def named(path: Text, run_id: Text) -> Text:
    """A path of an output, with the run's name in the place of ``{run_id}``."""
    return path if path is None or run_id is None else path.replace("{run_id}", run_id)


def run_app(foreign: Sequence[Option] = (), translate: Translate | None = None) -> typer.Typer:
    """The command, with another simulator's options beside its own; ``translate`` is told all that were given."""
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.command(cls=GuardedCommand)
    @with_options((*run_options(), *foreign))
    def run(  # pyright: ignore[reportUnusedFunction]
        cluster: Annotated[Text, typer.Argument(help="Cluster config (JSON).", show_default=False)] = None,
        *,
        cluster_config: Annotated[
            Text, _path("--cluster-config", "The same, as LLMServingSim writes it.", "Workload")
        ] = None,
        dataset: Annotated[
            Text, _path("--dataset", "Workload (JSONL, CSV) [chat requests, at --rate].", "Workload")
        ] = None,
        model: Annotated[
            Text,
            typer.Option(
                metavar="NAME|PATH",
                help="A model of penstock models, or the path of a config.json.",
                rich_help_panel=DEPLOYMENT,
            ),
        ] = None,
        hardware: Annotated[
            Text,
            typer.Option(metavar="LABEL", help="Hardware of penstock hardware.", rich_help_panel=DEPLOYMENT),
        ] = None,
        tp: Annotated[
            Any,
            _count("--tp", "--tp-size", "--tensor-parallel-size", text="GPUs that share each layer [1]."),
        ] = None,
        pp: Annotated[
            Any, _count("--pp", "--pp-size", "--pipeline-parallel-size", text="Pipeline stages [1].")
        ] = None,
        replicas: Annotated[Any, _count("--replicas", text="Instances behind the router [1].")] = None,
        gpus_per_node: Annotated[
            Any, _count("--gpus-per-node", text="How the GPUs stand in nodes [8].")
        ] = None,
        output: Annotated[Text, _path("--output", "Write the per-request CSV here.")] = None,
        no_itl: Annotated[
            bool, typer.Option("--no-itl", help="Leave the CSV's ITL column empty.", rich_help_panel=OUTPUT)
        ] = False,
        results: Annotated[
            Text, _path("--results", "Write Parquet tables and summary.json into this directory.")
        ] = None,
        trace: Annotated[
            Text, _path("--trace", "Write a Perfetto timeline here (.json or .json.gz).")
        ] = None,
        trace_window: Annotated[
            Text,
            typer.Option(
                "--trace-window",
                metavar="FROM:TO",
                help="Part of the timeline: 10s:12s.",
                rich_help_panel=OUTPUT,
            ),
        ] = None,
        report: Annotated[Text, _path("--report", "Write an HTML report here.")] = None,
        log_level: Annotated[
            Text,
            typer.Option(
                "--log-level",
                metavar="WARNING|INFO|DEBUG",
                help="Diagnostics [WARNING].",
                rich_help_panel=OUTPUT,
            ),
        ] = None,
        **options: Any,
    ) -> None:
        """Serve a workload on a cluster and report what every request and every pipeline stage experienced.

        Without files: penstock run --model meta-llama/Llama-3.1-8B --hardware H100 --tp 2 --pp 2 --rate 8
        """
        from penstock.cli.job import Inputs, Outputs, run_job
        from penstock.cli.without_files import Deployment

        deployment = Deployment(
            model=model,
            hardware=hardware,
            tp=tp,
            pp=pp,
            replicas=replicas,
            gpus_per_node=gpus_per_node,
        )
        inputs = Inputs(
            cluster=cluster, cluster_config=cluster_config, dataset=dataset, deployment=deployment
        )
        translation = None if translate is None else translate(options)
        run_id = None if translation is None else translation.run_id
        csv, results, trace, report = (named(path, run_id) for path in (output, results, trace, report))
        outputs = Outputs(
            csv=csv,
            itl=not no_itl,
            results=results,
            trace=trace,
            trace_window=trace_window,
            report=report,
        )
        run_job(inputs, options, outputs, log_level or "WARNING", translation)

    return app


app = run_app()
