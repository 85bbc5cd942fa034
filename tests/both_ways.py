"""The same simulation by the engine in machine code and in Python, and the first thing in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest

from penstock import machine_code
from penstock.engine.build import BuiltInstance
from penstock.engine.native_replica import NativeReplica
from penstock.engine.simulation import Simulation
from penstock.errors import NoProgressError
from penstock.recording.records import RunRecord, TurnChunk
from penstock.spec.cluster import ClusterSpec
from penstock.spec.options import RunOptions
from penstock.workload.workload import Workload

needs_core = pytest.mark.skipif(
    machine_code.core() is None, reason=f"no engine in machine code: {machine_code.why_pure()}"
)


class Turns:
    """A sink that keeps all turns, instance by instance, and when it got them."""

    def __init__(self) -> None:
        self.rows: dict[int, list[np.ndarray]] = {}

    def accept(self, chunk: TurnChunk) -> None:
        kept = self.rows.setdefault(chunk.instance, [])
        assert chunk.first_turn == sum(map(len, kept))
        kept.append(chunk.values)

    def of(self, instance: int) -> np.ndarray:
        return np.concatenate(self.rows[instance])


@dataclass
class Served:
    simulation: Simulation
    turns: Turns
    record: RunRecord | None
    error: str | None

    @property
    def natives(self) -> int:
        return sum(isinstance(one, NativeReplica) for one in self.simulation.serving)


def serve(
    monkeypatch: pytest.MonkeyPatch,
    pure: bool,
    cluster: ClusterSpec,
    workload: Workload,
    options: RunOptions,
    built: Sequence[BuiltInstance] | None = None,
) -> Served:
    monkeypatch.setenv("PENSTOCK_PURE", "1" if pure else "0")
    turns = Turns()
    own = None
    if built is not None:  # costs count lookups: each way gets its own
        own = [replace(one, cost=replace(one.cost, stage=copy(one.cost.stage))) for one in built]
    simulation = Simulation(cluster, workload, options, sinks=[turns], built=own)
    try:
        return Served(simulation, turns, simulation.run(), None)
    except NoProgressError as error:
        return Served(simulation, turns, None, str(error))


def difference(
    monkeypatch: pytest.MonkeyPatch,
    cluster: ClusterSpec,
    workload: Workload,
    options: RunOptions,
    built: Sequence[BuiltInstance] | None = None,
) -> str | None:
    """The first difference; None where there is none."""
    python = serve(monkeypatch, True, cluster, workload, options, built)
    machine = serve(monkeypatch, False, cluster, workload, options, built)
    assert python.natives == 0
    assert machine.natives > 0
    if python.error or machine.error:
        return None if python.error == machine.error else f"{python.error} is not {machine.error}"
    assert python.record is not None
    assert machine.record is not None
    for instance in python.turns.rows:
        ours, theirs = machine.turns.of(instance), python.turns.of(instance)
        if ours.shape != theirs.shape or (ours != theirs).any():
            rows = min(len(ours), len(theirs))
            turn = int(np.argmax((ours[:rows] != theirs[:rows]).any(axis=1)))
            return f"instance {instance}, turn {turn}: {theirs[turn].tolist()} is not {ours[turn].tolist()}"
    for name, value in parts_of(python.record, options):
        other = dict(parts_of(machine.record, options))[name]
        if value != other:
            return f"{name}: {value} is not {other}"
    return None


def parts_of(record: RunRecord, options: RunOptions) -> list[tuple[str, object]]:
    """By name, what a run leaves beside its turns."""
    log = record.requests
    parts: list[tuple[str, object]] = [
        ("requests", log.values().tolist()),
        ("legs", log.legs().tolist()),
        ("rejections", record.rejections),
        ("abortions", record.abortions),
        ("transfers", record.transfers),
        ("totals", record.totals),
        ("gaps", [column.tolist() for column in record.token_gaps]),
        ("first arrival", record.first_arrival_ns),
        ("end", record.end_ns),
    ]
    if options.keep_token_times:
        parts.append(("token times", [log.token_times_ns(row).tolist() for row in range(len(log))]))
    return parts


Difference = Callable[..., "str | None"]
