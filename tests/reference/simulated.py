"""The simulator on a cluster case, and the first difference of what it did from the reference."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from penstock.engine.build import BuiltInstance
from penstock.engine.simulation import Simulation
from penstock.errors import NoProgressError, UserError
from penstock.recording.records import REQUEST_COLUMNS, TURN_COLUMNS, RunRecord, TurnChunk
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.deployment import Deployment, MemoryPlan
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions

from .cases import ClusterCase
from .cluster import InstanceCase, ReferenceCluster
from .trace import ReferenceTrace

_COMPARED = (
    "schedule_ns",
    "tokens",
    "sampled",
    "decodes",
    "prefills",
    "prefill_tokens",
    "context_tokens",
    "free_blocks",
    "running",
    "waiting",
    "in_flight",
    "done_ns",
    "update_ns",
)
"""Columns of the turn log that the reference has too. ``done_ns`` of an empty step means nothing on its own."""


class KeptTurns:
    """A sink that keeps every turn of every instance as a dict."""

    def __init__(self, instances: int) -> None:
        self.turns: list[list[dict[str, Any]]] = [[] for _ in range(instances)]

    def accept(self, chunk: TurnChunk) -> None:
        for values in chunk.values.tolist():
            turn: dict[str, Any] = dict(zip(TURN_COLUMNS, values, strict=False))
            stages = values[len(TURN_COLUMNS) :]
            turn.update(arrive=stages[::3], start=stages[1::3], end=stages[2::3])
            self.turns[chunk.instance].append(turn)


def difference(case: ClusterCase, *, exact_only: bool = False) -> str | None:
    """The first difference of the simulator ("ours") from the reference, or None."""
    cluster = ReferenceCluster(case.instances, case.workload)
    expected = cluster.run()
    kept = KeptTurns(len(case.instances))
    options = RunOptions(router="RR", exact_only=exact_only)
    try:
        built = [built_instance(index, each) for index, each in enumerate(case.instances)]
        spec = replace(example_cluster(), instances=tuple(each.spec for each in built))
        record = Simulation(spec, case.workload, options, sinks=[kept], built=built).run()
    except (UserError, NoProgressError, AssertionError, LookupError, ValueError, TypeError) as error:
        return f"raised {error!r}"
    for index, (trace, turns) in enumerate(zip(expected, kept.turns, strict=True)):
        found = _turn_difference(trace, turns)
        if found is not None:
            return f"instance {index}, {found}"
    return _request_difference(cluster, record)


def _turn_difference(trace: ReferenceTrace, turns: list[dict[str, Any]]) -> str | None:
    for number, (reference, ours) in enumerate(zip(trace.turns, turns, strict=False)):
        names = [*_COMPARED, "arrive", "start", "end"]
        if not reference["tokens"]:
            names = [name for name in _COMPARED if name != "done_ns"]
        for name in names:
            if reference[name] != ours[name]:
                return f"turn {number}: {name}: reference {reference[name]}, ours {ours[name]}"
    if len(trace.turns) != len(turns):
        return f"turns: reference {len(trace.turns)}, ours {len(turns)}"
    return None


def _request_difference(cluster: ReferenceCluster, record: RunRecord) -> str | None:
    ours: dict[int, dict[str, Any]] = {}
    for row, values in enumerate(record.requests.values().tolist()):
        entry: dict[str, Any] = dict(zip(REQUEST_COLUMNS, values, strict=True))
        entry["token_times_ns"] = record.requests.token_times_ns(row).tolist()
        ours[entry["request"]] = entry
    for index, instance in sorted(cluster.instance_of.items()):
        reference = cluster.engines[instance].trace.requests[index]
        expected = {
            "instance": instance,
            "first_scheduled_ns": reference["first_scheduled_ns"],
            "first_token_ns": reference["first_token_ns"],
            "finish_ns": reference["finish_ns"],
            "preemptions": reference["num_preemptions"],
            "cached_tokens": reference["cached_tokens"],
            "token_times_ns": reference["token_times_ns"],
        }
        if index not in ours:
            return f"request {index} is missing"
        for name, value in expected.items():
            if ours[index][name] != value:
                return f"request {index}: {name}: reference {value}, ours {ours[index][name]}"
    return None


@cache
def example_cluster() -> ClusterSpec:
    """A cluster to take over what no schedule depends on: a model, hardware, links."""
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": 1,
    }
    node = {"num_instances": 1, "instances": [instance]}
    return load_cluster({"num_nodes": 1, "link_bw": 16, "link_latency": 20000, "nodes": [node]})


def built_instance(index: int, case: InstanceCase) -> BuiltInstance:
    spec: InstanceSpec = replace(
        example_cluster().instances[0],
        index=index,
        pp_size=case.pp_size,
        scheduler=case.options,
        overhead=case.overhead,
        blocking_sends=case.blocking_sends,
    )
    deployment = Deployment(
        instance=index,
        model=spec.model.name,
        hardware=(spec.hardware,) * case.pp_size,
        tp_size=1,
        pp_size=case.pp_size,
        layers=(1,) * case.pp_size,
        memory=MemoryPlan(
            stages=(), block_size=case.options.block_size, num_gpu_blocks=case.num_gpu_blocks, basis="drawn"
        ),
        basis=(),
    )
    return BuiltInstance(spec, deployment, case.cost)
