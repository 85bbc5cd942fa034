"""A run from options to files: check everything, simulate, write."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.api import Scenario, load_scenario
from penstock.cli.progress import ProgressBar
from penstock.engine.simulation import Simulation
from penstock.errors import Problem, UserError, nearest
from penstock.results.atomic import unwritable
from penstock.results.heartbeat import HeartbeatLog
from penstock.results.request_csv import write_request_csv
from penstock.results.result import KeepTurns, RunContext, SimulationResult
from penstock.results.summary import render_deployment, render_summary
from penstock.units import NS_PER_S

if TYPE_CHECKING:
    from penstock.results.records import TurnChunk, TurnSink

LOG_LEVELS = ("WARNING", "INFO", "DEBUG")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What to write beside the log and the summary; None = not asked for."""

    csv: str | None = None
    itl: bool = True
    results: str | None = None
    trace: str | None = None
    trace_window: str | None = None
    report: str | None = None

    def problems(self, inputs: Sequence[str | None]) -> list[Problem]:
        """What would keep the files from being written, or destroy an input, found before the run."""
        summary = None if self.results is None else str(Path(self.results) / "summary.json")
        wanted = {"--output": self.csv, "--results": summary, "--trace": self.trace, "--report": self.report}
        taken = {os.path.realpath(path): "an input of this run" for path in inputs if path is not None}
        found = [
            Problem(option, "is not simulated yet: there is no such output")
            for option, value in (
                ("--trace", self.trace),
                ("--trace-window", self.trace_window),
                ("--report", self.report),
            )
            if value is not None
        ]
        for option, path in wanted.items():
            if path is None:
                continue
            place = os.path.realpath(path)
            reason = taken.get(place) or unwritable(path)
            if reason is not None:
                found.append(Problem(option, f"{path} cannot be written: {reason}"))
            if not place.startswith("/dev/"):
                taken[place] = f"{option} writes there too"
        return found


class _Diagnostics:
    """Lines on stderr, down to a level."""

    def __init__(self, level: str) -> None:
        self._loudest = LOG_LEVELS.index(level)

    def say(self, level: str, text: str) -> None:
        """Print if ``level`` is asked for."""
        if LOG_LEVELS.index(level) <= self._loudest:
            print(text, file=sys.stderr, flush=True)


class Sinks:
    """Everyone who listens to the turns. They can join after the simulation is made, before it runs."""

    def __init__(self) -> None:
        self._sinks: list[TurnSink] = []

    def add(self, sink: TurnSink) -> None:
        """Listen from the first turn on."""
        self._sinks.append(sink)

    def accept(self, chunk: TurnChunk) -> None:
        """Pass a chunk of turns on."""
        for sink in self._sinks:
            sink.accept(chunk)


def flag_name(option: str) -> str:
    """How the command line writes an option."""
    return f"--{option.replace('_', '-')}"


def run_job(
    cluster_config: str | None,
    dataset: str | None,
    options: Mapping[str, Any],
    outputs: Outputs,
    log_level: str,
) -> None:
    """Check everything, simulate, and write the log, the summary and the files.

    Raises:
        UserError: with every mistake found before the run; no file has been touched then.
    """
    options = {**options, "keep_token_times": outputs.csv is not None and outputs.itl}
    problems = [
        Problem(name, "is required")
        for name, value in (("--cluster-config", cluster_config), ("--dataset", dataset))
        if value is None
    ]
    problems += outputs.problems([cluster_config, dataset])
    if log_level not in LOG_LEVELS:
        hint = nearest(log_level, LOG_LEVELS)
        problems.append(
            Problem("--log-level", f"must be one of {', '.join(LOG_LEVELS)}, not '{log_level}'{hint}")
        )
    if ":" in str(options.get("router")):
        sys.path.insert(0, str(Path.cwd()))  # a router's module is looked for here, as with python -m
    job = _Job(outputs, sys.stderr.isatty())
    scenario, simulation = job.prepare(cluster_config, dataset, options, problems)
    diagnostics = _Diagnostics(log_level if not problems else LOG_LEVELS[0])
    for notice in scenario.cluster.notices:
        diagnostics.say("WARNING", f"notice: {notice}")
    diagnostics.say("INFO", f"{len(scenario.workload)} requests from {scenario.workload.source}")
    diagnostics.say("DEBUG", f"{scenario.options}")
    for instance in scenario.cluster.instances:
        diagnostics.say("DEBUG", f"{instance}")
    for path in job.serve(scenario, simulation):
        diagnostics.say("INFO", f"wrote {path}")


class _Job:
    """One run: its sinks, its progress bar, its files."""

    def __init__(self, outputs: Outputs, interactive: bool) -> None:
        self._outputs = outputs
        self._sinks = Sinks()
        self._bar = ProgressBar() if interactive else None

    def prepare(
        self,
        cluster_config: str | None,
        dataset: str | None,
        options: Mapping[str, Any],
        problems: list[Problem],
    ) -> tuple[Scenario, Simulation]:
        """Load and build; whatever is wrong is raised together with the problems known already."""
        try:
            scenario = load_scenario(cluster_config, dataset, options, flag_name)
            simulation = Simulation(
                scenario.cluster,
                scenario.workload,
                scenario.options,
                sinks=[self._sinks],
                progress=None if self._bar is None else self._bar.update,
            )
        except UserError as error:
            raise UserError([*problems, *error.problems]) from None
        if problems:
            raise UserError(problems)
        return scenario, simulation

    def serve(self, scenario: Scenario, simulation: Simulation) -> list[str]:
        """Run, logging to stdout as simulated time goes by, then sum up; returns the files written."""
        for deployment in simulation.deployments:
            print(render_deployment(deployment))
        print(flush=True)
        log = self._throughput_log(scenario, simulation)
        keep = None
        if self._outputs.results is not None and scenario.options.record != "requests":
            keep = KeepTurns(stages=scenario.options.record == "stages")
            self._sinks.add(keep)
        started = time.perf_counter()
        record = simulation.run()
        wall_s = time.perf_counter() - started
        if log is not None:
            log.finish(record.end_ns)
        if self._bar is not None:
            self._bar.clear()
        context = RunContext(inputs=scenario.inputs(), notices=scenario.cluster.notices)
        result = SimulationResult(record, keep, context=context)
        print(f"\n{render_summary(result.summary, wall_s=wall_s)}", flush=True)
        return self._write(result)

    def _throughput_log(self, scenario: Scenario, simulation: Simulation) -> HeartbeatLog | None:
        interval_ns = round(scenario.log_interval_s * NS_PER_S)
        if not interval_ns:
            return None
        log = HeartbeatLog(
            simulation.deployments,
            interval_ns,
            self._log_line,
            instances=scenario.cluster.instances,
            start_ns=scenario.workload.first_arrival_ns,
        )
        self._sinks.add(log)
        return log

    def _log_line(self, line: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        print(line, flush=self._bar is not None)

    def _write(self, result: SimulationResult) -> list[str]:
        written: list[str] = []
        if self._outputs.csv is not None:
            write_request_csv(self._outputs.csv, result.record, itl=self._outputs.itl)
            written.append(self._outputs.csv)
        if self._outputs.results is not None:
            written += map(str, result.save(self._outputs.results))
        return written
