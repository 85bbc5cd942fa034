"""Serving from options: check everything, listen, say where."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from penstock.api import load_scenario
from penstock.cli.described import flag_name
from penstock.errors import Problem, UserError, nearest
from penstock.rendering.summary import render_deployment
from penstock.workload.lengths import Lengths, parse_lengths
from penstock.workload.workload import Workload

TEXTS = ("filler", "echo")


def serve_job(
    cluster_config: str | None,
    options: Mapping[str, Any],
    *,
    host: str,
    port: int,
    time_scale: float,
    answer_lengths: str,
    text: str,
    max_queue: int,
    served_names: tuple[str, ...],
) -> None:
    """Serve until told to stop.

    Raises:
        UserError: with every mistake found before; nothing listens then.
    """
    try:
        from penstock.server.serve import ServeOptions, listener, run, with_own_run_options
    except ImportError as error:
        message = f"needs the package {error.name}: pip install 'penstock[serve]'"
        raise UserError([Problem("penstock serve", message)]) from None

    problems: list[Problem] = []
    if not cluster_config:
        problems.append(Problem("--cluster-config", "is required"))
    if not 0 <= port <= 65_535:
        problems.append(Problem("--port", f"must be from 0 to 65535, not {port}"))
    if not (math.isfinite(time_scale) and time_scale > 0):
        problems.append(Problem("--time-scale", f"must be a number > 0, not {time_scale}"))
    if text not in TEXTS:
        problems.append(
            Problem("--text", f"must be one of {', '.join(TEXTS)}, not '{text}'{nearest(text, TEXTS)}")
        )
    if max_queue < 0:
        problems.append(Problem("--max-queue", f"must be >= 0, not {max_queue}"))
    lengths: Lengths | None = None
    try:
        lengths = parse_lengths(answer_lengths, "--answer-lengths")
    except UserError as error:
        problems += error.problems
    try:
        scenario = load_scenario(cluster_config or None, Workload.empty(), options, flag_name)
    except UserError as error:
        raise UserError([*problems, *error.problems]) from None
    if problems or lengths is None:
        raise UserError(problems)
    serving = ServeOptions(
        host=host,
        port=port,
        time_scale=time_scale,
        answer_lengths=lengths,
        text="echo" if text == "echo" else "filler",
        max_queue=max_queue,
        served_names=served_names,
    )
    for notice in scenario.cluster.notices:
        print(f"notice: {notice}", file=sys.stderr)
    one = listener(scenario.cluster, with_own_run_options(scenario.options), serving)
    for deployment in one.deployments:
        print(render_deployment(deployment))

    def ready() -> None:
        print(f"serving on {one.address} (Ctrl-C stops)", flush=True)

    run([one], ready)
