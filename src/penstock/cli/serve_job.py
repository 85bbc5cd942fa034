"""Serving from options: check everything, listen, say where, and write at the end."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.api import load_scenario
from penstock.cli.described import flag_name
from penstock.cli.job import Inputs
from penstock.cli.without_files import in_flags
from penstock.errors import Problem, UserError, nearest
from penstock.files.use import FileUse
from penstock.rendering.result import SAVED_FILES, RunContext
from penstock.rendering.summary import render_deployment
from penstock.workload.lengths import Lengths, parse_lengths
from penstock.workload.workload import Workload

TEXTS = ("filler", "echo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options of the command that are not those of a run, as given."""

    host: str
    port: int
    each: bool
    time_scale: float
    answer_lengths: str
    text: str
    max_queue: int
    served_names: tuple[str, ...]
    tokenizer: str | None
    record: str | None
    logs_stats: bool
    logs_iterations: bool

    def check(self, problems: list[Problem]) -> Lengths | None:
        """Add what is wrong to ``problems``; returns the lengths of answers."""
        if not self.host:
            problems.append(Problem("--host", "must not be empty"))
        if not 0 <= self.port <= 65_535:
            problems.append(Problem("--port", f"must be from 0 to 65535, not {self.port}"))
        if not (math.isfinite(self.time_scale) and self.time_scale > 0):
            problems.append(Problem("--time-scale", f"must be a number > 0, not {self.time_scale}"))
        if self.text not in TEXTS:
            hint = nearest(self.text, TEXTS)
            problems.append(Problem("--text", f"must be one of {', '.join(TEXTS)}, not '{self.text}'{hint}"))
        if self.record == "":
            problems.append(Problem("--record", "must not be empty: name a directory"))
        if self.max_queue < 0:
            problems.append(Problem("--max-queue", f"must be >= 0, not {self.max_queue}"))
        try:
            return parse_lengths(self.answer_lengths, "--answer-lengths")
        except UserError as error:
            problems += error.problems
            return None


def serve_job(inputs: Inputs, options: Mapping[str, Any], wishes: Wishes) -> None:
    """Serve until told to stop.

    Raises:
        UserError: with every mistake found before; nothing listens then.
    """
    try:
        from penstock.server.serve import listen, run
        from penstock.server.session import SessionOptions
    except ImportError as error:
        message = f"needs the package {error.name}: pip install 'penstock[serve]'"
        raise UserError([Problem("penstock serve", message)]) from None

    problems: list[Problem] = []
    resolved = inputs.resolve(options, problems, lambda _: Workload.empty())
    lengths = wishes.check(problems)
    files = FileUse(
        reads={
            "CLUSTER": inputs.cluster or inputs.cluster_config,
            "--tokenizer": wishes.tokenizer,
            "--calibration": options.get("calibration") or None,
        },
        writes={
            "--record": [Path(wishes.record) / name for name in ("workload.jsonl", *SAVED_FILES)]
            if wishes.record
            else None
        },
    )
    problems += files.problems()
    try:
        scenario = load_scenario(resolved.cluster, resolved.dataset, options, flag_name)
    except UserError as error:
        found = map(in_flags, error.problems) if resolved.cluster_name else error.problems
        raise UserError([*problems, *found]) from None
    if problems or lengths is None:
        raise UserError(problems)
    files.check()  # once more: what the inputs name has been read too
    if resolved.cluster_name:
        scenario = replace(scenario, cluster=replace(scenario.cluster, source=resolved.cluster_name))
    serving = SessionOptions(
        time_scale=wishes.time_scale,
        answer_lengths=lengths,
        text="echo" if wishes.text == "echo" else "filler",
        max_queue=wishes.max_queue,
        served_names=wishes.served_names,
        tokenizer=wishes.tokenizer,
        record=wishes.record,
        logs_stats=wishes.logs_stats,
        logs_iterations=wishes.logs_iterations,
    )
    for notice in scenario.cluster.notices:
        print(f"notice: {notice}", file=sys.stderr)
    context = RunContext(inputs=scenario.inputs(), notices=scenario.cluster.notices)
    listeners = listen(
        scenario.cluster,
        scenario.options,
        serving,
        context,
        host=wishes.host,
        port=wishes.port,
        each=wishes.each,
    )
    for one in listeners:
        for deployment in one.session.deployments:
            print(render_deployment(deployment))

    def ready() -> None:
        for place, one in enumerate(listeners):
            what = f"instance {place}" if wishes.each else "serving"
            print(f"{what} on {one.address}", flush=True)
        print("Ctrl-C stops", flush=True)

    run(listeners, ready)
    for one in listeners:
        for path in one.session.finish():
            print(f"wrote {path}", file=sys.stderr)
