"""A measured vLLM run beside its simulation: TTFT, TPOT and latency with their errors, and both over time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from penstock.cost.tables import FloatArray
from penstock.engine.simulation import Simulation
from penstock.errors import Problem, UserError
from penstock.recording.records import REQUEST_COLUMNS, Int64Array, TurnChunk
from penstock.spec.cluster import ClusterSpec
from penstock.spec.load import load_cluster
from penstock.spec.options import EngineOverhead, RunOptions
from penstock.spec.overheads import default_overhead
from penstock.units import NS_PER_S
from penstock.validate.measured_run import MeasuredRun, RequestTimes, read_measured_run
from penstock.validate.throughput import Throughput
from penstock.workload.formats import load_workload
from penstock.workload.workload import Workload

STATISTICS = ("mean", "p50", "p90", "p99")
HOSTS = Path(__file__).resolve().parent.parent / "data" / "hosts.json"


@dataclass(frozen=True, slots=True)
class Line:
    """One statistic of one metric, seconds."""

    metric: str
    statistic: str
    measured: float
    simulated: float

    @property
    def error(self) -> float:
        """Simulated over measured, less one."""
        return self.simulated / self.measured - 1


@dataclass(frozen=True, slots=True)
class MeasuredComparison:
    """``times`` and ``throughput`` are (measured, simulated); ``notes`` say what the simulation rests on."""

    run: MeasuredRun
    times: tuple[RequestTimes, RequestTimes]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    throughput: tuple[Throughput, Throughput] | None = None


def validate_measured(
    directory: Path, dataset: Path, *, profile_root: Path | None, calibrated: bool = True
) -> MeasuredComparison:
    """Simulate the run in ``directory`` on its workload and compare.

    The engine's options are the run's own; ``calibrated`` adds the packaged engine overhead of its host, where
    one is packaged. Nothing is tuned to the run.

    Raises:
        UserError: the run, its cluster or the workload cannot be read, or do not belong together.
    """
    run = read_measured_run(directory)
    # What the cluster does not say of the host is decided below, from this run's host.
    flags = {"engine_overhead": "none", **run.flags()}
    cluster = load_cluster(directory / "cluster.json", flags, profile_root=profile_root)
    _check_parallelism(run, cluster)
    workload = load_workload(dataset, len(run.indices))
    _check_workload(run, workload, dataset)
    cluster, notes = _as_measured(run, cluster, calibrated=calibrated)
    simulated, more = _simulate(cluster, workload, profile_root)
    lines = compare_times(run.times, simulated)
    return MeasuredComparison(run, (run.times, simulated), tuple(lines), (*notes, *more))


def compare_times(
    measured: RequestTimes, simulated: RequestTimes, statistics: Sequence[str] = STATISTICS
) -> list[Line]:
    """Every statistic of every metric."""
    ours, theirs = simulated.metrics(), measured.metrics()
    return [
        Line(metric, statistic, _statistic(values, statistic), _statistic(ours[metric], statistic))
        for metric, values in theirs.items()
        for statistic in statistics
        if len(values)
    ]


def report(comparison: MeasuredComparison) -> str:
    """A table, and what the simulated side rests on."""
    rows = [f"{'':<10}{'':<6}{'measured':>12}{'simulated':>12}{'error':>9}"]
    for line in comparison.lines:
        scale, unit, digits = (1e3, "ms", 2) if line.metric == "TPOT" else (1.0, "s", 3)
        rows.append(
            f"{line.metric:<10}{line.statistic:<6}{line.measured * scale:>9.{digits}f} {unit:<2}"
            f"{line.simulated * scale:>9.{digits}f} {unit:<2}{line.error:>+9.1%}"
        )
    return "\n".join([*rows, "", *(f"- {note}" for note in comparison.notes)])


def host_overhead(hardware: str) -> EngineOverhead | None:
    """The packaged overhead of a host, by the label of its hardware."""
    found = json.loads(HOSTS.read_text(encoding="utf-8"))["hosts"].get(hardware)
    return None if found is None else EngineOverhead(**found)


def _statistic(values: FloatArray, name: str) -> float:
    return float(values.mean()) if name == "mean" else float(np.percentile(values, float(name[1:])))


def _check_parallelism(run: MeasuredRun, cluster: ClusterSpec) -> None:
    problems: list[Problem] = []
    for option, ours in (
        ("tensor_parallel_size", "tp_size"),
        ("pipeline_parallel_size", "pp_size"),
        ("data_parallel_size", "dp_size"),
    ):
        recorded = run.engine.get(option)
        for instance in cluster.instances:
            value = getattr(instance, ours)
            if recorded is not None and recorded != value:
                problems.append(
                    Problem(instance.where, f"{ours} {value}, but meta.json has {option} {recorded}")
                )
    if problems:
        raise UserError(problems)


def _check_workload(run: MeasuredRun, workload: Workload, dataset: Path) -> None:
    if len(workload) != len(run.indices) or run.indices != tuple(range(len(workload))):
        raise UserError(
            [
                Problem(
                    str(dataset), f"{len(workload)} requests, but the run answers {len(run.indices)} of them"
                )
            ]
        )
    different = np.flatnonzero(workload.output_tokens != run.times.output_tokens.astype(np.int64))
    if len(different):
        raise UserError(
            [
                Problem(
                    str(dataset),
                    f"is not the run's workload: {len(different)} requests have other output lengths, "
                    f"the first is request {different[0]}",
                )
            ]
        )


def _as_measured(
    run: MeasuredRun, cluster: ClusterSpec, *, calibrated: bool
) -> tuple[ClusterSpec, tuple[str, ...]]:
    """The cluster with what the run recorded beside its options, and what was decided."""
    notes = [
        (
            f"engine options from meta.json (vLLM {run.vllm_version}), "
            f"asynchronous scheduling {'on' if run.asynchronous() else 'off'}"
        )
    ]
    instances = list(cluster.instances)
    for i, instance in enumerate(instances):
        changes: dict[str, object] = {}
        if run.num_gpu_blocks is not None:
            changes["num_gpu_blocks"] = run.num_gpu_blocks
        if run.engine.get("max_model_len"):
            changes["scheduler"] = replace(instance.scheduler, max_model_len=int(run.engine["max_model_len"]))
        if instance.in_lockstep:
            changes["data_parallel"] = run.data_parallel(instance.data_parallel)
        if calibrated and instance.overhead == EngineOverhead():
            known = host_overhead(instance.hardware)
            default = default_overhead("vllm", instance.hardware, instance.model.num_layers)
            changes["overhead"] = default if known is None else known
        instances[i] = replace(instance, **changes)
    if any(instance.in_lockstep for instance in instances):
        ranks = run.data_parallel(instances[0].data_parallel)
        notes.append(
            f"ranks in lock-step as in vLLM {ranks.generation}, one front-end that balances them, an all-reduce of "
            f"unfinished requests every {ranks.sync_interval} forwards"
        )
    if run.num_gpu_blocks is not None:
        notes.append(f"{run.num_gpu_blocks} KV blocks, as recorded")
    return replace(cluster, instances=tuple(instances)), tuple(notes)


class _ScheduleTimes:
    """Keeps when each instance's turns were scheduled."""

    def __init__(self) -> None:
        self._times: dict[int, list[Int64Array]] = {}

    def accept(self, chunk: TurnChunk) -> None:
        """Take a chunk of turns."""
        self._times.setdefault(chunk.instance, []).append(chunk.column("schedule_ns").copy())

    def queued(self, instances: Int64Array, arrivals: Int64Array) -> Int64Array:
        """The first turn of each request's instance at or after its arrival: when the engine takes it."""
        taken = arrivals.copy()
        for instance, chunks in self._times.items():
            times = np.concatenate(chunks)
            own = instances == instance
            place = np.minimum(np.searchsorted(times, arrivals[own], side="left"), len(times) - 1)
            taken[own] = np.maximum(times[place], arrivals[own])
        return taken


def _simulate(
    cluster: ClusterSpec, workload: Workload, profile_root: Path | None
) -> tuple[RequestTimes, Sequence[str]]:
    turns = _ScheduleTimes()
    options = RunOptions(
        keep_token_times=False, profile_root=None if profile_root is None else str(profile_root)
    )
    simulation = Simulation(cluster, workload, options, sinks=[turns])
    record = simulation.run()
    if record.rejections:
        raise UserError(f"{len(record.rejections)} requests were rejected: {record.rejections[0].reason}")
    values = record.requests.values()
    values = values[np.argsort(values[:, 0])]
    column = {name: values[:, i] for i, name in enumerate(REQUEST_COLUMNS)}
    queued = turns.queued(column["instance"], column["arrival_ns"])
    start = int(queued.min())
    times = (
        queued,
        np.maximum(column["first_scheduled_ns"], queued),
        column["first_token_ns"],
        column["finish_ns"],
    )
    notes = [note for deployment in record.deployments for note in deployment.basis]
    notes += [note for totals in record.totals for note in totals.notes]
    return (
        RequestTimes(
            column["output_tokens"].astype(np.float64), *((time - start) / NS_PER_S for time in times)
        ),
        list(dict.fromkeys(notes)),
    )
