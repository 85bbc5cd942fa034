"""A run from options to files: check everything, simulate, write."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from penstock.accounting.timeline import Timeline
from penstock.api import Run, Scenario, load_scenario
from penstock.cli.described import flag_name
from penstock.cli.run import Translation
from penstock.cli.without_files import Deployment, chat_requests, in_flags
from penstock.errors import Problem, UserError, nearest
from penstock.files.use import FileUse, Paths
from penstock.files.writing import all_or_nothing
from penstock.rendering.heartbeat import HeartbeatLog
from penstock.rendering.heartbeat_words import llmservingsim_lines
from penstock.rendering.live import LiveDisplay
from penstock.rendering.perfetto import DEFAULT_EVENT_LIMIT, PerfettoTrace, parse_window
from penstock.rendering.request_csv import write_request_csv
from penstock.rendering.result import SAVED_FILES, SimulationResult
from penstock.rendering.summary import render_deployment, render_summary
from penstock.units import NS_PER_S, seconds
from penstock.workload.workload import Workload

LOG_LEVELS = ("WARNING", "INFO", "DEBUG")
DefaultRequests = Callable[[str | Mapping[str, Any] | None], Workload]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is run: files, or what the options describe in their place. None = not given; ``cluster`` is the argument,
    ``cluster_config`` the option that means the same."""

    cluster: str | None = None
    cluster_config: str | None = None
    dataset: str | None = None
    deployment: Deployment = field(default_factory=Deployment)

    def resolve(
        self,
        options: Mapping[str, Any],
        problems: list[Problem],
        default_requests: DefaultRequests | None = None,
    ) -> ResolvedInputs:
        """Which cluster and workload are meant; what is missing or said twice goes to ``problems``."""
        cluster: str | Mapping[str, Any] | None = self.cluster_config or self.cluster or None
        name = ""
        for where, value in (("CLUSTER", self.cluster), ("--cluster-config", self.cluster_config)):
            if value == "":
                problems.append(Problem(where, "must not be empty"))
        given = self.deployment.given()
        if self.cluster is not None and self.cluster_config is not None:
            problems.append(
                Problem("--cluster-config", f"is given twice: {self.cluster} stands there already")
            )
        if self.cluster is None and self.cluster_config is None:
            if given:
                described = self.deployment.check(problems)
                cluster, name = described or (None, "")
            else:
                problems.append(
                    Problem("CLUSTER", "is required: a cluster config, or --model and --hardware")
                )
        else:
            problems += [Problem(flag, "goes with no cluster config: that one says it") for flag in given]
        if self.dataset is not None:
            if not self.dataset:
                problems.append(Problem("--dataset", "must not be empty"))
            return ResolvedInputs(cluster, name, self.dataset or None, options)
        if default_requests is not None:
            return ResolvedInputs(cluster, name, default_requests(cluster), options)
        drawn = chat_requests(options, problems)
        if drawn is None:
            return ResolvedInputs(cluster, name, None, options)
        # The requests are drawn at the rate already, and as many as asked for.
        return ResolvedInputs(cluster, name, drawn, {**options, "request_rate": None, "num_reqs": None})


@dataclass(frozen=True, slots=True)
class ResolvedInputs:
    """A cluster config or its path, what to call a described one, a workload or its path, and the options left."""

    cluster: str | Mapping[str, Any] | None
    cluster_name: str
    dataset: str | Workload | None
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What to write beside the log and the summary; None = not asked for."""

    csv: str | None = None
    itl: bool = True
    results: str | None = None
    trace: str | None = None
    trace_window: str | None = None
    report: str | None = None

    def files(self, reads: Mapping[str, Paths]) -> FileUse:
        """What the run reads and writes."""
        tables = None if self.results is None else [Path(self.results) / name for name in SAVED_FILES]
        writes: dict[str, Paths] = {
            "--output": self.csv,
            "--results": tables if self.results else self.results,
            "--trace": self.trace,
            "--report": self.report,
        }
        return FileUse(reads=reads, writes=writes)

    def problems(self) -> list[Problem]:
        """What is wrong with the options beside the files they name."""
        found: list[Problem] = []
        if self.trace_window is not None:
            try:
                parse_window(self.trace_window)
            except UserError as error:
                found += error.problems
            if self.trace is None:
                found.append(Problem("--trace-window", "is a part of --trace, which is not given"))
        return found


class _Diagnostics:
    """Lines on stderr, down to a level."""

    def __init__(self, level: str) -> None:
        self._loudest = LOG_LEVELS.index(level)

    def say(self, level: str, text: str) -> None:
        """Print if ``level`` is asked for."""
        if LOG_LEVELS.index(level) <= self._loudest:
            with suppress(OSError):
                print(text, file=sys.stderr, flush=True)


def run_job(
    inputs: Inputs,
    options: Mapping[str, Any],
    outputs: Outputs,
    log_level: str,
    translation: Translation | None = None,
) -> None:
    """Check everything, simulate, and write the log, the summary and the files.

    ``options`` are those given; where another simulator's are among them, ``translation`` says what they mean.

    Raises:
        UserError: with every mistake found before the run; no file has been touched then.
    """
    kept = {"keep_token_times": outputs.csv is not None and outputs.itl}
    translation = translation or Translation(options=options)
    problems = list(translation.problems)
    resolved = inputs.resolve(translation.options, problems, translation.default_requests)
    translation = replace(translation, options=resolved.options)
    files = outputs.files(
        {
            "CLUSTER": inputs.cluster or None,
            "--cluster-config": inputs.cluster_config or None,
            "--dataset": inputs.dataset or None,
            "--calibration": translation.options.get("calibration") or None,
        }
    )
    problems += outputs.problems() + files.problems()
    if log_level not in LOG_LEVELS:
        hint = nearest(log_level, LOG_LEVELS)
        problems.append(
            Problem("--log-level", f"must be one of {', '.join(LOG_LEVELS)}, not '{log_level}'{hint}")
        )
    display = LiveDisplay()
    run = _prepare(resolved, {**options, **kept}, translation, outputs, display, problems)
    files.check()  # once more: what the inputs name has been read too
    display.stage_times = run.stage_times
    diagnostics = _Diagnostics(log_level)
    _announce(run.scenario, diagnostics)
    timeline = None
    if outputs.results is not None:
        pp_sizes = [deployment.pp_size for deployment in run.deployments]
        timeline = Timeline(pp_sizes, run.scenario.workload.first_arrival_ns)
        run.listen_to_spans(timeline)
    with all_or_nothing():
        with _traced(run, outputs) as trace:
            result = _serve(run, display, logs_words=translation.logs_words)
            if trace is not None:
                trace.finish(result.record, energy=result.energy)
                _check_window(outputs, result)
        written = _write(result, outputs, timeline)
    if written:
        print(f"\nwrote {', '.join(written)}", flush=True)


def _prepare(
    inputs: ResolvedInputs,
    given: Mapping[str, Any],
    translation: Translation,
    outputs: Outputs,
    display: LiveDisplay,
    problems: list[Problem],
) -> Run:
    """Load and build; whatever is wrong is raised together with the problems known already."""
    options = {**translation.options, "keep_token_times": given["keep_token_times"]}
    try:
        scenario = load_scenario(inputs.cluster, inputs.dataset, options, flag_name)
        if inputs.cluster_name:
            scenario = replace(scenario, cluster=replace(scenario.cluster, source=inputs.cluster_name))
        notices = (*translation.notices, *scenario.cluster.notices)
        run = Run(
            replace(scenario, cluster=replace(scenario.cluster, notices=notices), given=given),
            keep_turns=outputs.results is not None or outputs.report is not None,
            progress=display.update,
        )
    except UserError as error:
        found = map(in_flags, error.problems) if inputs.cluster_name else error.problems
        raise UserError(dict.fromkeys([*problems, *found])) from None
    if problems:
        raise UserError(problems)
    return run


def _announce(scenario: Scenario, diagnostics: _Diagnostics) -> None:
    for notice in scenario.cluster.notices:
        diagnostics.say("WARNING", f"notice: {notice}")
    for remark in scenario.cluster.remarks:
        diagnostics.say("INFO", f"notice: {remark}")
    diagnostics.say("INFO", f"{len(scenario.workload)} requests from {scenario.workload.source}")
    diagnostics.say("DEBUG", f"{scenario.options}")
    for instance in scenario.cluster.instances:
        diagnostics.say("DEBUG", f"{instance}")


def _serve(run: Run, display: LiveDisplay, *, logs_words: bool) -> SimulationResult:
    """Run, logging to stdout as simulated time goes by, then sum up.

    Further listeners of the turns (a timeline, a report) join here, before the run.
    """
    for deployment in run.deployments:
        print(render_deployment(deployment))
    print(flush=True)
    log = _throughput_log(run, display, logs_words=logs_words)
    started = time.perf_counter()
    try:
        result = run.run()
    finally:
        display.clear()
    wall_s = time.perf_counter() - started
    if log is not None:
        log.finish(result.record.end_ns)
    print(f"\n{render_summary(result.summary, wall_s=wall_s)}", flush=True)
    return result


def _throughput_log(run: Run, display: LiveDisplay, *, logs_words: bool) -> HeartbeatLog | None:
    scenario = run.scenario
    interval_ns = round(scenario.log_interval_s * NS_PER_S)
    if not interval_ns:
        return None

    def write(line: str) -> None:
        display.clear()
        print(line)

    power_w = None
    if run.energy is not None and any(scenario.cluster.power):
        run.energy.follow(interval_ns)
        power_w = run.energy.npu_power_w
    log = HeartbeatLog(
        run.deployments,
        interval_ns,
        write,
        instances=scenario.cluster.instances,
        start_ns=scenario.workload.first_arrival_ns,
        power_w=power_w,
        summed=llmservingsim_lines if logs_words else None,
        known_until_ns=run.known_until_ns,
    )
    run.listen(log)
    return log


@contextmanager
def _traced(run: Run, outputs: Outputs) -> Generator[PerfettoTrace | None]:
    """Write the trace asked for while the run goes on."""
    if outputs.trace is None:
        yield None
        return
    window = parse_window(outputs.trace_window) if outputs.trace_window else (None, None)
    with PerfettoTrace(outputs.trace, run.deployments, window_ns=window) as trace:
        run.listen(trace)
        run.listen_to_spans(trace)
        yield trace
    if trace.truncated:
        limit = f"{DEFAULT_EVENT_LIMIT:,} events, then it ends"
        print(f"notice: {outputs.trace} holds {limit}: --trace-window chooses a part", file=sys.stderr)


def _check_window(outputs: Outputs, result: SimulationResult) -> None:
    """Say so where the part of the timeline that was asked for lies behind the run."""
    begin, _ = parse_window(outputs.trace_window) if outputs.trace_window else (None, None)
    end_ns = result.record.end_ns
    if begin is not None and begin > end_ns:
        text = f"the run ends at {seconds(end_ns):.3f} s, before --trace-window {outputs.trace_window} begins"
        print(f"notice: {outputs.trace} is empty: {text}", file=sys.stderr)


def _write(result: SimulationResult, outputs: Outputs, timeline: Timeline | None) -> list[str]:
    """Write the files asked for; returns their paths."""
    written = [] if outputs.trace is None else [outputs.trace]
    if outputs.csv is not None:
        write_request_csv(outputs.csv, result.record, itl=outputs.itl)
        written.append(outputs.csv)
    if outputs.results is not None:
        extra = {} if timeline is None else {"timeline": timeline.frame()}
        written += map(str, result.save(outputs.results, extra))
    if outputs.report is not None:
        from penstock.rendering.report import write_report

        write_report(result, outputs.report)
        written.append(outputs.report)
    return written
