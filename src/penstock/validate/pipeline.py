"""Predicting a real vLLM run: fit half of its steps, simulate all of it, compare what a user would see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.cost.linear import linear_hop
from penstock.cost.step_cost import PipelineCost
from penstock.engine.replay import ReplayTrace, replay
from penstock.files.document import understood
from penstock.units import NS_PER_MS
from penstock.validate.fit import FittedRun, NoisyStageCost, fit_run, stage_busy_ns
from penstock.validate.real_run import RealRun, read_real_run
from penstock.workload.request import Request

PERCENTILES = (10, 50, 90)
REPLICAS = 16
LATENCIES = ("TTFT", "ITL", "latency")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity. ``predicted`` is the mean over replicas and ``spread`` their standard deviation."""

    name: str
    unit: str
    measured: float
    predicted: float
    spread: float

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one; None where nothing was measured."""
        return self.predicted / self.measured - 1 if self.measured else None


def compare_run(run: RealRun, fitted: FittedRun, replicas: int = REPLICAS) -> list[Comparison]:
    """Simulate the run's arrivals with the fitted costs, ``replicas`` times with noise of seeds 0, 1, ...,
    and set the figures beside the measured ones."""
    measured = _measured(run)
    predicted = [_predicted(run, fitted, seed) for seed in range(replicas)]
    return [
        Comparison(name, unit, value, *_mean_and_spread([each[name, unit] for each in predicted]))
        for (name, unit), value in measured.items()
    ]


def validate_pipeline(directory: Path) -> str:
    """The report of ``penstock validate pipeline``.

    Raises:
        UserError: the run cannot be read.
    """
    run = read_real_run(directory)
    with understood(str(directory), "no stage costs can be fitted to it"):
        fitted = fit_run(run)
        rows = compare_run(run, fitted)
    title = (
        f"{directory.name}: {len(run.requests)} requests, pp {run.pp_size}; fitted to {fitted.steps} of "
        f"{len(run.steps)} steps (every second one), simulated {REPLICAS} times with resampled noise"
    )
    lines = [
        title,
        *_costs(fitted),
        "",
        f"{'':26}{'measured':>12}{'predicted':>12}{'+-':>8}{'error':>9}",
        *map(_line, rows),
        "",
        *_verdicts(rows),
    ]
    return "\n".join(lines)


def _costs(fitted: FittedRun) -> list[str]:
    lines = [
        f"  stage {index}: {stage.base_ns / NS_PER_MS:.2f} ms, {stage.prefill_base_ns / NS_PER_MS:.2f} ms more with "
        f"prefill, {stage.per_prefill_token_ns / 1000:.0f} us per prefill token, "
        f"{stage.per_decode_ns / 1000:.0f} us per decode, {stage.per_context_ns:.0f} ns per token of context; "
        "noise p10/p50/p90 "
        + "/".join(f"{np.percentile([row[index] for row in fitted.noise], q):.2f}" for q in PERCENTILES)
        for index, stage in enumerate(fitted.stages)
    ]
    overhead = fitted.overhead
    delays = {
        "schedule": overhead.schedule_ns,
        "update": overhead.update_ns,
        "IPC to first stage": overhead.ipc_to_first_stage_ns,
        "IPC from last": overhead.ipc_from_last_stage_ns,
        "hop": fitted.hop_ns,
        "client in": fitted.client_in_ns,
        "client out": fitted.client_out_ns,
    }
    lines.append("  us: " + ", ".join(f"{name} {delay / 1000:.0f}" for name, delay in delays.items()))
    return lines


def _line(row: Comparison) -> str:
    error = "" if row.error is None else f"{row.error:+.1%}"
    name = f"{row.name}, {row.unit}" if row.unit else row.name
    digits = 0 if not row.unit else 2
    figures = f"{row.measured:>12.{digits}f}{row.predicted:>12.{digits}f}{row.spread:>8.{max(digits, 1)}f}"
    return f"{name:26}{figures}{error:>9}"


def _verdicts(rows: Sequence[Comparison]) -> list[str]:
    errors = {row.name: row.error for row in rows}
    medians = max(abs(errors[f"{name} p50"] or 0.0) for name in LATENCIES)
    makespan = abs(errors["makespan"] or 0.0)
    return [
        f"medians: largest error {medians:.1%} (target 10%): {'met' if medians <= 0.10 else 'MISSED'}",
        f"makespan: error {makespan:.1%} (target 5%): {'met' if makespan <= 0.05 else 'MISSED'}",
    ]


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values))


def _measured(run: RealRun) -> dict[tuple[str, str], float]:
    times = [row["token_times_ns"] for row in run.client]
    figures = _user_figures([row["arrival_time_ns"] for row in run.requests], times)
    figures["iterations", ""] = len(run.steps)
    figures["empty schedules", ""] = len(run.iterations) - len(run.steps)
    figures["preemptions", ""] = sum(len(row["preempted"]) for row in run.iterations)
    for stage in range(run.pp_size):
        busy = sum(stage_busy_ns(step, stage) for step in run.steps)
        figures[f"stage {stage} busy", "ms"] = busy / NS_PER_MS
    return figures


def _predicted(run: RealRun, fitted: FittedRun, seed: int) -> dict[tuple[str, str], float]:
    trace = simulate(run, fitted, seed)
    times = [
        [at + fitted.client_out_ns for at in trace.requests[index]["token_times_ns"]]
        for index in range(len(run.requests))
    ]
    figures = _user_figures([row["arrival_time_ns"] for row in run.requests], times)
    figures["iterations", ""] = len(trace.iterations)
    figures["empty schedules", ""] = trace.num_empty_schedules
    figures["preemptions", ""] = sum(len(row["preempted"]) for row in trace.iterations)
    for stage in range(run.pp_size):
        spans = [row["stage_ns"][stage] for row in trace.iterations]
        figures[f"stage {stage} busy", "ms"] = sum(end - start for start, end in spans) / NS_PER_MS
    return figures


def simulate(run: RealRun, fitted: FittedRun, seed: int) -> ReplayTrace:
    """The run's requests on one simulated instance; arrivals are those at the engine."""
    options = run.options()
    hop = linear_hop(fitted.hop_ns, 0, options.max_num_batched_tokens)
    cost = PipelineCost(
        stage=NoisyStageCost(fitted, seed),
        hops=(hop,) * (run.pp_size - 1),
        token_return_ns=[0] * (options.max_num_seqs + 1),
        basis=("fitted to half of the run's steps",),
    )
    requests = [
        Request(index, row["arrival_time_ns"] + fitted.client_in_ns, row["input_toks"], row["output_toks"])
        for index, row in enumerate(run.requests)
    ]
    return replay(options, run.summary["num_gpu_blocks"], cost, requests, overhead=fitted.overhead)


def _user_figures(arrivals: Sequence[int], times: Sequence[Sequence[int]]) -> dict[tuple[str, str], float]:
    """What a user sees, ms: percentiles over requests (over all gaps for ITL), and the makespan."""
    samples = {
        "TTFT": [tokens[0] - arrival for arrival, tokens in zip(arrivals, times, strict=True)],
        "ITL": [gap for tokens in times for gap in np.diff(np.array(tokens)).tolist()],
        "latency": [tokens[-1] - arrival for arrival, tokens in zip(arrivals, times, strict=True)],
    }
    figures = {
        (f"{name} p{percentile}", "ms"): float(np.percentile(values, percentile)) / NS_PER_MS
        for name, values in samples.items()
        for percentile in PERCENTILES
    }
    last = max(tokens[-1] for tokens in times)
    figures["makespan", "ms"] = (last - min(arrivals)) / NS_PER_MS
    return figures
