"""From an instance's Spec to what runs: layers to stages, blocks that fit, compiled costs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.cost.compile import compile_cost, shared_link
from penstock.cost.memory import plan_memory, with_prefetch
from penstock.cost.step_cost import PipelineCost, StepShape
from penstock.errors import Problem, UserError
from penstock.pipeline.partition import balance_layers, partition_layers
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.deployment import Deployment
from penstock.spec.layers import LayerGroup, LayerKind, StageLayers

if TYPE_CHECKING:
    from penstock.cost.group_cost import GroupCost

BALANCE_DECODES = 64
BALANCE_CONTEXT = 1024


@dataclass(frozen=True, slots=True)
class BuiltInstance:
    """An instance ready to run. ``cost`` counts lookups, so each instance has its own; the tables behind it are
    shared between instances that are alike. ``group_cost`` is that of the forwards of all ranks of its group, the same
    for all of them; None where it runs its forwards alone."""

    spec: InstanceSpec
    deployment: Deployment
    cost: PipelineCost
    group_cost: GroupCost | None = None


def build_instances(cluster: ClusterSpec, profile_root: Path | None) -> list[BuiltInstance]:
    """Build every instance of the cluster.

    Raises:
        UserError: the mistakes of all instances together, such as models that do not fit.
    """
    built: list[BuiltInstance] = []
    problems: list[Problem] = []
    first_of_kind: dict[InstanceSpec, BuiltInstance] = {}
    for spec in cluster.instances:
        kind = _kind(spec)
        twin = first_of_kind.get(kind)
        if twin is not None:
            built.append(_like(twin, spec, cluster))
            continue
        try:
            first_of_kind[kind] = _build(spec, cluster, profile_root)
            built.append(first_of_kind[kind])
        except UserError as error:
            problems += (Problem(problem.where or spec.where, problem.message) for problem in error.problems)
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return _with_groups(built, cluster, profile_root)


def _with_groups(
    built: Sequence[BuiltInstance], cluster: ClusterSpec, profile_root: Path | None
) -> list[BuiltInstance]:
    """The same, ranks in lock-step with what their forwards cost together."""
    members: dict[str, list[InstanceSpec]] = {}
    for one in built:
        if one.spec.in_lockstep and one.spec.dp_group is not None:
            members.setdefault(one.spec.dp_group, []).append(one.spec)
    costs: dict[str, tuple[GroupCost, tuple[str, ...]]] = {}
    result: list[BuiltInstance] = []
    for one in built:
        name = one.spec.dp_group
        if name not in members:
            result.append(one)
            continue
        if name not in costs:
            from penstock.cost.compile_group import compile_group

            layers = one.spec.model.cut(one.deployment.layers)
            costs[name] = compile_group(members[name], cluster, layers, profile_root)
        cost, basis = costs[name]
        told = tuple(dict.fromkeys((*one.deployment.basis, *basis)))
        result.append(replace(one, deployment=replace(one.deployment, basis=told), group_cost=cost))
    return result


def _build(spec: InstanceSpec, cluster: ClusterSpec, profile_root: Path | None) -> BuiltInstance:
    counts, note = _counts(spec, cluster, profile_root)
    layers = spec.model.cut(counts)
    spec = with_prefetch(spec, layers)
    memory = plan_memory(spec, layers)
    cost = compile_cost(spec, cluster, layers, profile_root)
    deployment = Deployment(
        instance=spec.index,
        model=spec.model.name,
        hardware=spec.stage_hardware or (spec.hardware,) * spec.pp_size,
        tp_size=spec.tp_size,
        pp_size=spec.pp_size,
        layers=counts,
        memory=memory,
        basis=(*((spec.engine,) if spec.engine else ()), *note, *cost.basis),
    )
    return BuiltInstance(spec, deployment, cost)


def _kind(spec: InstanceSpec) -> InstanceSpec:
    """The instance without what tells it from its replicas. Nodes matter by which stages share one."""
    nodes = spec.placement_nodes
    if nodes is not None:
        order = {node: number for number, node in enumerate(dict.fromkeys(nodes))}
        nodes = tuple(order[node] for node in nodes)
    return replace(spec, index=0, node=0, dp_rank=0, where="", placement_nodes=nodes)


def _like(twin: BuiltInstance, spec: InstanceSpec, cluster: ClusterSpec) -> BuiltInstance:
    """An instance that differs from its ``twin`` in number and place alone; shared links go by the place."""
    hops = tuple(
        replace(hop, shared_link=shared_link(spec, cluster, stage))
        for stage, hop in enumerate(twin.cost.hops)
    )
    cost = replace(twin.cost, stage=copy(twin.cost.stage), hops=hops)
    return BuiltInstance(spec, replace(twin.deployment, instance=spec.index), cost)


def _counts(
    spec: InstanceSpec, cluster: ClusterSpec, profile_root: Path | None
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """How many layers each stage has, and a note on how an automatic split came about."""
    model = spec.model
    default = partition_layers(model.num_layers, spec.pp_size)
    if spec.layer_partition is None:
        return default, ()
    if not isinstance(spec.layer_partition, str):
        return spec.layer_partition, ()
    if spec.pp_size == 1 or max(default) == 1:
        return default, ()
    stages = model.cut(default)
    before = _probe(spec, cluster, stages, profile_root)
    # A layer costs what a stage gains by one more; the rest of a stage's cost is its embedding or head.
    place = max(range(spec.pp_size), key=lambda stage: default[stage])
    layer_ns: dict[LayerKind, int] = {}
    for kind in model.kinds:
        more = (*stages[:place], (*stages[place], LayerGroup(kind, 1)), *stages[place + 1 :])
        layer_ns[kind] = _probe(spec, cluster, more, profile_root)[place] - before[place]
    fixed = [
        time - sum(group.count * layer_ns[group.kind] for group in stage)
        for time, stage in zip(before, stages, strict=True)
    ]
    told = ", ".join(f"{time / 1000:.1f}" for time in layer_ns.values())
    note = (
        f"layers balanced for {BALANCE_DECODES} decodes of {BALANCE_CONTEXT} tokens of context, "
        f"{told} us a layer"
    )
    return balance_layers([layer_ns[kind] for kind in model.layer_kinds()], fixed), (note,)


def _probe(
    spec: InstanceSpec, cluster: ClusterSpec, layers: tuple[StageLayers, ...], profile_root: Path | None
) -> Sequence[int]:
    stage = compile_cost(spec, cluster, layers, profile_root).stage
    return stage.stage_ns(StepShape.of_decodes(BALANCE_DECODES, BALANCE_CONTEXT))
