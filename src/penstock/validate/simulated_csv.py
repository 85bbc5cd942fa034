"""A measured run beside a CSV of requests that somebody simulated, here or with LLMServingSim."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from penstock.errors import Problem, UserError
from penstock.files.csv_text import named_rows
from penstock.units import NS_PER_S
from penstock.validate.measured import MeasuredComparison, compare_times
from penstock.validate.measured_run import MeasuredRun, RequestTimes, read_measured_run
from penstock.validate.throughput import read_log, read_time_series

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
"""Those of LLMServingSim's ``bench validate``."""

_COLUMNS = ("request id", "output", "arrival", "queuing_delay", "TTFT", "latency")


def compare_with_csv(directory: Path, csv: Path, log: Path | None = None) -> MeasuredComparison:
    """The run in ``directory`` beside the per-request CSV of a simulation of it; with the simulation's log also
    throughput over time, beside the run's ``timeseries.csv``.

    TTFT and latency of the CSV count from the arrival, those of the run from when the engine took the request.

    Raises:
        UserError: a file cannot be read, or the CSV is of another workload.
    """
    run = read_measured_run(directory)
    simulated = _read_csv(csv, run)
    throughput = None if log is None else (read_time_series(directory / "timeseries.csv"), read_log(log))
    lines = compare_times(run.times, simulated, STATISTICS)
    notes = (f"simulated: {csv}, from each request's arrival on",)
    return MeasuredComparison(run, (run.times, simulated), tuple(lines), notes, throughput)


def _read_csv(path: Path, run: MeasuredRun) -> RequestTimes:
    rows: dict[int, tuple[int, ...]] = {}
    for line, row in named_rows(path, _COLUMNS):
        try:
            number, *values = (int(row[name]) for name in _COLUMNS)
        except ValueError:
            raise UserError([Problem(f"{path}:{line}", "holds something that is no whole number")]) from None
        if number in rows:
            raise UserError([Problem(f"{path}:{line}", f"request {number} a second time")])
        if min(values) < 0 or max(values) > 2**53:
            raise UserError([Problem(f"{path}:{line}", "holds what is no time in nanoseconds")])
        rows[number] = tuple(values)
    ids = sorted(rows)
    if tuple(ids) != run.indices:
        told = f"{len(rows)} requests, but the run has {len(run.indices)}"
        if len(rows) == len(run.indices):
            told = "its request ids are not the run's"
        raise UserError([Problem(str(path), told)])
    table = np.array([rows[number] for number in ids], dtype=np.float64)
    output, arrival, delay, ttft, latency = table.T
    different = np.flatnonzero(output != run.times.output_tokens)
    if len(different):
        told = f"{len(different)} requests have other output lengths, the first is request {different[0]}"
        raise UserError([Problem(str(path), f"is of another workload than the run: {told}")])
    start = arrival.min()
    times = (arrival, arrival + delay, arrival + ttft, arrival + latency)
    return RequestTimes(output, *((time - start) / NS_PER_S for time in times))
