"""``penstock run``: one workload served on one cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from penstock.cli.described import with_options
from penstock.cli.registry import GuardedCommand
from penstock.errors import Problem
from penstock.spec.option_table import Option, run_options


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """What another simulator's options come to: ``options`` of ``penstock run`` in their place, ``notices`` of those
    without effect, ``problems`` of those that cannot be honoured."""

    options: Mapping[str, Any]
    notices: Sequence[str] = ()
    problems: Sequence[Problem] = field(default_factory=list[Problem])


Translate = Callable[[Mapping[str, Any]], Translation]


def _path(name: str, text: str) -> Any:
    return typer.Option(name, metavar="PATH", help=text)


Text = str | None


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
        *,
        cluster_config: Annotated[Text, _path("--cluster-config", "Cluster config (JSON); required.")] = None,
        dataset: Annotated[Text, _path("--dataset", "Workload (JSONL, CSV); required.")] = None,
        output: Annotated[Text, _path("--output", "Write the per-request CSV here.")] = None,
        no_itl: Annotated[bool, typer.Option("--no-itl", help="Leave the CSV's ITL column empty.")] = False,
        results: Annotated[
            Text, _path("--results", "Write Parquet tables and summary.json into this directory.")
        ] = None,
        trace: Annotated[
            Text, _path("--trace", "Write a Perfetto timeline here (.json or .json.gz).")
        ] = None,
        trace_window: Annotated[
            Text,
            typer.Option("--trace-window", metavar="FROM:TO", help="Part of the timeline: 10s:12s."),
        ] = None,
        report: Annotated[Text, _path("--report", "Write an HTML report here.")] = None,
        log_level: Annotated[
            Text,
            typer.Option("--log-level", metavar="WARNING|INFO|DEBUG", help="Diagnostics [WARNING]."),
        ] = None,
        **options: Any,
    ) -> None:
        """Serve a workload on a cluster and report what every request and every pipeline stage experienced."""
        from penstock.cli.job import Outputs, run_job

        outputs = Outputs(
            csv=output,
            itl=not no_itl,
            results=results,
            trace=trace,
            trace_window=trace_window,
            report=report,
        )
        translation = None if translate is None else translate(options)
        run_job(cluster_config, dataset, options, outputs, log_level or "WARNING", translation)

    return app


app = run_app()
