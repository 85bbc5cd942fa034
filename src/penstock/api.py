"""Penstock from Python: the same run as on the command line, with typed results."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar, Unpack

from penstock.accounting.bubbles import BubbleLedger, SpanSink
from penstock.accounting.energy import EnergyMeter
from penstock.engine.models import model_problems
from penstock.engine.router import make_router
from penstock.engine.simulation import Progress, Simulation
from penstock.errors import Problem, UserError, nearest
from penstock.recording.records import REQUEST_COLUMNS, Int64Array, TurnChunk, TurnSink
from penstock.rendering.result import KeepTurns, RunContext, SimulationResult
from penstock.scheduler.make import check_policy
from penstock.spec.calibration import calibrated, load_calibration
from penstock.spec.choice import named
from penstock.spec.cluster import Calibration, ClusterSpec
from penstock.spec.deployment import Deployment
from penstock.spec.described import described_instance
from penstock.spec.engines import engine_router
from penstock.spec.given import SimulateOptions
from penstock.spec.load import ClusterSource, load_cluster
from penstock.spec.load_run import load_run_options
from penstock.spec.option_table import RawFlags, RawRun, run_options
from penstock.spec.options import RunOptions
from penstock.workload.footprint import memory_problem
from penstock.workload.formats import load_workload
from penstock.workload.workload import Workload

T = TypeVar("T")
SinkT = TypeVar("SinkT", bound=TurnSink)


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that a run needs, checked. ``log_interval_s`` 0 means no throughput log."""

    cluster: ClusterSpec
    workload: Workload
    options: RunOptions
    log_interval_s: float
    given: Mapping[str, Any]

    def inputs(self) -> dict[str, Any]:
        """What the run is made from, as plain values: files, the options given, and what they come to."""
        scaling = self.cluster.autoscaling
        return {
            "cluster": self.cluster.source,
            "dataset": self.workload.source,
            "requests": len(self.workload),
            "given": {name: _plain(value) for name, value in self.given.items() if value is not None},
            "options": _plain_members(asdict(self.options)),
            "link": asdict(self.cluster.link),
            "instances": [_plain_members(described_instance(one)) for one in self.cluster.instances],
            "remarks": list(self.cluster.remarks),
            **({} if scaling is None else {"autoscaling": asdict(scaling)}),
        }


def load_scenario(
    cluster: ClusterSource | ClusterSpec | None,
    dataset: str | os.PathLike[str] | Workload | None,
    options: Mapping[str, Any],
    flag_name: Callable[[str], str] = str,
) -> Scenario:
    """Read and check everything a run is made from.

    ``options`` are named as the command line's, with underscores; None means not given. ``flag_name`` turns
    such a name into how the user wrote it. A cluster or dataset of None is missing: the rest is checked all
    the same.

    Raises:
        UserError: with the mistakes of the cluster config, the options and the workload together.
    """
    problems = [
        Problem(flag_name(name), f"unknown option{nearest(name, option_names())}")
        for name in options
        if name not in option_names()
    ]
    flags = {name: value for name, value in options.items() if name in RawFlags.model_fields}
    others = {name: value for name, value in options.items() if name in RawRun.model_fields}
    run = _collect(problems, lambda: load_run_options(others, flag_name))
    root = None if run is None else run[0].profile_root
    calibration = _calibration(problems, None if run is None else run[1].calibration)
    limit = 0 if run is None else run[1].num_reqs or 0
    spec = cluster if isinstance(cluster, ClusterSpec) else None
    if spec is not None:
        given = (name for name, value in flags.items() if value is not None)
        problems += [
            Problem(flag_name(name), "cannot change a cluster that is loaded already") for name in given
        ]
        if calibration is not None:
            loaded, known = spec, calibration
            spec = _collect(problems, lambda: calibrated(loaded, known)) or spec
    elif cluster is not None and not isinstance(cluster, ClusterSpec):
        source = cluster
        spec = _collect(
            problems,
            lambda: load_cluster(
                source, flags, profile_root=root, calibration=calibration, flag_name=flag_name
            ),
        )
    workload = dataset if isinstance(dataset, Workload) else None
    if dataset is not None and not isinstance(dataset, Workload):
        path = os.fspath(dataset)
        workload = _collect(problems, lambda: load_workload(path, limit))
    router = others.get("router")
    if router is not None and router != "":
        _collect(problems, lambda: make_router(router, 0, where=flag_name("router")))
    if spec is not None:
        problems += _policy_problems(spec)
    if spec is not None and workload is not None:
        problems += model_problems(spec, workload)
    if workload is not None and (run is None or run[1].check_memory is not False):
        too_much = memory_problem(workload)
        problems += [] if too_much is None else [Problem(workload.source, too_much)]
    if problems or run is None or spec is None or workload is None:
        raise UserError(problems)
    engine = flags.get("engine")
    if engine is not None and others.get("router") is None:
        own = engine_router(engine)
        run = (run[0] if own is None else replace(run[0], router=own), run[1])
    interval = run[1].log_interval
    if run[1].request_rate is not None:
        from penstock.workload.offered_load import Arrivals, OfferedLoad

        workload = OfferedLoad(workload, Arrivals("poisson")).at(run[1].request_rate, run[0].seed)
    return Scenario(spec, workload, run[0], 1.0 if interval is None else interval, dict(options))


def _calibration(problems: list[Problem], path: Any) -> Calibration | None:
    """The calibration asked for, None where there is none or it cannot be read."""
    return None if path is None else _collect(problems, lambda: load_calibration(path))


def _policy_problems(cluster: ClusterSpec) -> list[Problem]:
    """Scheduling policies that cannot be made."""
    problems: list[Problem] = []
    for instance in cluster.instances:
        found: list[Problem] = []
        options = instance.scheduler
        _collect(found, partial(check_policy, options, instance.pp_size))
        where = f"{instance.where}.policy" if instance.where else "policy"
        problems += (Problem(where, problem.message) for problem in found)
    return problems


def option_names() -> tuple[str, ...]:
    """What :func:`simulate` and :func:`load_scenario` take as options."""
    return tuple(option.name for option in run_options())


def simulate(
    cluster: ClusterSource | ClusterSpec,
    dataset: str | os.PathLike[str] | Workload,
    **options: Unpack[SimulateOptions],
) -> SimulationResult:
    """Serve ``dataset`` on ``cluster`` and return what happened.

    ``cluster`` is the path of a cluster config, the same as a dict, or a :class:`ClusterSpec`; ``dataset`` the
    path of a workload, or a :class:`Workload`. ``options`` are those of ``penstock run`` with underscores, in
    :class:`~penstock.spec.given.SimulateOptions`.

    >>> result = simulate("configs/cluster/single_node_pp_instance.json", "workloads/example_trace.jsonl")
    >>> result.summary.requests.finished
    100

    Raises:
        UserError: with every mistake found in the inputs.
        NoProgressError: an instance has work that can never run.
    """
    return Run(load_scenario(cluster, dataset, options)).run()


class Run:
    """One run of a scenario, built and checked, not started. Listeners join before :meth:`run`, once.

    ``keep_turns`` False leaves the tables of steps and stages out of the result even where the scenario's
    ``record`` asks for them. ``energy`` measures power, where it is known of all accelerators.

    Raises:
        UserError: the model does not fit, a cost has nothing to rest on, the router cannot be made.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        keep_turns: bool = True,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        record = scenario.options.record
        self.scenario = scenario
        self._sinks = _Sinks()
        self._simulation = Simulation(
            scenario.cluster, scenario.workload, scenario.options, sinks=[self._sinks], progress=progress
        )
        self._kept = None
        if keep_turns and record != "requests":
            self._kept = self._listen(KeepTurns(stages=record == "stages"))
        self.energy = EnergyMeter.of(
            scenario.cluster, scenario.workload.first_arrival_ns, keep_steps=self._kept is not None
        )
        if self.energy is not None:
            self._listen(self.energy)
        self._ledger = self._listen(
            BubbleLedger(
                [deployment.pp_size for deployment in self.deployments],
                blocking_sends=[instance.blocking_sends for instance in scenario.cluster.instances],
                in_lockstep=[instance.in_lockstep for instance in scenario.cluster.instances],
            )
        )

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Each instance as it will run: layers, memory, and what each cost rests on."""
        return self._simulation.deployments

    def listen(self, sink: TurnSink) -> None:
        """Pass every turn to ``sink`` too."""
        self._listen(sink)

    def listen_to_spans(self, sink: SpanSink) -> None:
        """Pass what every stage does, and why it waits, to ``sink``."""
        self._ledger.pass_on(sink)

    def known_until_ns(self, instance: int) -> int:
        """Before when an instance has no turns but those that have been passed on."""
        return self._simulation.known_until_ns(instance)

    def stage_times(self) -> list[Int64Array]:
        """ns so far by instance, each of shape (stages, causes of a :class:`StageCause`)."""
        return [self._ledger.so_far_ns(place) for place in range(len(self.deployments))]

    def run(self) -> SimulationResult:
        """Serve the workload.

        Raises:
            NoProgressError: an instance has work that can never run.
        """
        record = self._simulation.run()
        finishes = record.requests.values()[:, REQUEST_COLUMNS.index("finish_ns")]
        bubbles = None
        if len(finishes):
            bubbles = self._ledger.finish(record.first_arrival_ns, int(finishes.max()))
        energy = None if self.energy is None else self.energy.finish(record)
        context = RunContext(inputs=self.scenario.inputs(), notices=self.scenario.cluster.notices)
        return SimulationResult(record, self._kept, bubbles, context, energy)

    def _listen(self, sink: SinkT) -> SinkT:
        self._sinks.members.append(sink)
        return sink


class _Sinks:
    """Everyone who listens to the turns, as one sink: they may join after the simulation is made."""

    def __init__(self) -> None:
        self.members: list[TurnSink] = []

    def accept(self, chunk: TurnChunk) -> None:
        """Pass a chunk of turns on."""
        for sink in self.members:
            sink.accept(chunk)


def _collect(problems: list[Problem], load: Callable[[], T]) -> T | None:
    try:
        return load()
    except UserError as error:
        problems += error.problems
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str):
        return value
    return str(value) if isinstance(value, os.PathLike) else named(value)


def _plain_members(members: dict[str, Any]) -> dict[str, Any]:
    """With classes and objects of the user's by their names."""
    plain: dict[str, Any] = {}
    for name, value in members.items():
        if name in ("policy", "router"):
            plain[name] = named(value)
        else:
            plain[name] = _plain_members(value) if isinstance(value, dict) else value
    return plain
