"""Changes to how a mixture of experts is spread: over more or fewer ranks, its experts shared out or split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from penstock.explore.candidate import Candidate
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.expert_rules import ALL_RANKS, group_problems, number_ranks

_MOVES = ("sync", "dummy", "imbalance")


def expert_changes(cluster: ClusterSpec) -> Iterator[Candidate]:
    """Each on as many GPUs as there are; nothing for a dense model, or where instances are placed stage by stage."""
    if any(one.model.moe is None or one.stage_hardware or one.placement_nodes for one in cluster.instances):
        return
    first = cluster.instances[0]
    for instances in (_more_ranks(cluster.instances), _fewer_ranks(cluster.instances)):
        if instances:
            numbered = _numbered(instances)
            told = f"{_degrees(first)} to {_degrees(numbered[0])}"
            yield from _if_allowed(cluster, "data parallelism", told, numbered)
    ranks = first.tp_size * first.dp_size
    if ranks > 1:
        places = ranks if first.experts.ep_size == 1 else 1
        told = f"experts shared out over {first.experts.ep_size} GPUs to {places}"
        changed = [replace(one, experts=replace(one.experts, ep_size=places)) for one in cluster.instances]
        yield from _if_allowed(cluster, "expert parallelism", told, changed)


def _degrees(instance: InstanceSpec) -> str:
    return f"tp {instance.tp_size} x dp {instance.dp_size}"


def _more_ranks(instances: Sequence[InstanceSpec]) -> list[InstanceSpec]:
    """Two ranks of half the GPUs for each; empty where one cannot be halved, or serves a part of each request."""
    if any(one.tp_size % 2 or one.pd_type for one in instances):
        return []
    halves: list[InstanceSpec] = []
    for one in instances:
        group = one.dp_group or f"instance {one.index}"
        halves += [_as_rank(one, one.tp_size // 2, group)] * 2
    return halves


def _fewer_ranks(instances: Sequence[InstanceSpec]) -> list[InstanceSpec]:
    """One rank of twice the GPUs for every two; empty where a group has an odd number, or stands on several nodes."""
    nodes = {one.dp_group: one.node for one in instances}
    if any(one.dp_size % 2 or nodes[one.dp_group] != one.node for one in instances):
        return []
    return [
        _as_rank(one, 2 * one.tp_size, one.dp_group if one.dp_size > 2 else None)
        for one in instances
        if one.dp_rank % 2 == 0
    ]


def _as_rank(one: InstanceSpec, tp_size: int, group: str | None) -> InstanceSpec:
    experts = replace(one.experts, ep_size=ALL_RANKS if one.experts.ep_size > 1 else 1)
    return replace(one, tp_size=tp_size, dp_group=group, dp_size=1, dp_rank=0, experts=experts)


def _numbered(instances: Sequence[InstanceSpec]) -> list[InstanceSpec]:
    return number_ranks([replace(one, index=place) for place, one in enumerate(instances)])


def _if_allowed(
    cluster: ClusterSpec, knob: str, told: str, instances: Sequence[InstanceSpec]
) -> Iterator[Candidate]:
    if not group_problems(instances):
        yield Candidate(knob, told, _MOVES, replace(cluster, instances=tuple(instances)))
