"""The cost of a lock-step group, compiled from the specs of its ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from penstock.cost.building_blocks import group_link
from penstock.cost.compile import cost_question
from penstock.cost.experts.dispatch import Crossing, ranks_inside
from penstock.cost.experts.layer import expert_layer
from penstock.cost.lockstep import GroupKind, GroupStage, TabulatedGroupCost
from penstock.cost.network import Link, inner_link, outer_link
from penstock.cost.sources import kernel_tables
from penstock.cost.stage import StageRole
from penstock.cost.weights import activation_bytes, shard_of
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.layers import LayerKind, MoeMlp, StageLayers
from penstock.units import NS_PER_US, Int64Array

_MOST_GRAPH_TOKENS = 512


def compile_group(
    ranks: Sequence[InstanceSpec],
    cluster: ClusterSpec,
    layers: tuple[StageLayers, ...],
    profile_root: Path | None,
) -> tuple[TabulatedGroupCost, tuple[str, ...]]:
    """Forwards of ``ranks``, the members of one group, whose stages hold ``layers``; and what they rest on.

    Raises:
        UserError: no profile and unknown hardware, or a broken file.
    """
    first = ranks[0]
    labels = first.stage_hardware or (first.hardware,) * len(layers)
    kinds: dict[tuple[str, LayerKind, int], GroupKind] = {}
    basis: dict[str, None] = {}
    stages: list[GroupStage] = []
    for number, (stage, label) in enumerate(zip(layers, labels, strict=True)):
        nodes = len({_node(rank, number) for rank in ranks})
        own: dict[LayerKind, GroupKind] = {}
        for kind in dict.fromkeys(group.kind for group in stage):
            key = (label, kind, nodes)
            if key not in kinds:
                kinds[key], told = _kind(first, cluster, (label, kind, nodes), profile_root)
                basis |= dict.fromkeys(told)
            own[kind] = kinds[key]
        role = StageRole(layers=stage, first=number == 0, last=number == len(layers) - 1)
        stages.append(GroupStage(role, own))
    options = first.scheduler
    graph_tokens = first.experts.max_graph_tokens
    if graph_tokens is None:
        graph_tokens = min(2 * options.max_num_seqs, _MOST_GRAPH_TOKENS)
    cost = TabulatedGroupCost(
        stages,
        len(ranks),
        max_tokens=options.max_num_batched_tokens,
        max_sequences=min(options.max_num_seqs, options.max_num_batched_tokens),
        max_graph_tokens=graph_tokens,
        exchange_ns=first.experts.count_exchange_ns,
        prefill_layer_ns=first.overhead.prefill_step_ns / first.model.num_layers,
    )
    padding = f"steps of up to {graph_tokens} tokens pad to the largest rank's CUDA graph"
    exchange = (
        f"token counts exchanged in {first.experts.count_exchange_ns / NS_PER_US:g} us a forward and stage"
    )
    return cost, (*basis, f"lock-step over {len(ranks)} ranks: {padding}; {exchange} (given, not measured)")


def _node(rank: InstanceSpec, stage: int) -> int:
    return rank.node if rank.placement_nodes is None else rank.placement_nodes[stage]


def _kind(
    first: InstanceSpec, cluster: ClusterSpec, where: tuple[str, LayerKind, int], profile_root: Path | None
) -> tuple[GroupKind, tuple[str, ...]]:
    """One kind of layer on one hardware, its group over ``where[2]`` nodes."""
    label, kind, nodes = where
    question = cost_question(first, label, kind)
    tables = kernel_tables(question, profile_root)
    inner, outer = inner_link(cluster.link), outer_link(cluster.link)
    size = activation_bytes(first.dtype)
    row = first.model.hidden_size * size
    moe = kind.mlp
    tensor = group_link(cluster.link, first.tp_size, first.where)
    if not isinstance(moe, MoeMlp):
        around = partial(_all_reduces_ns, tensor, row, first.tp_size, 2)
        return GroupKind(tables, around), tables.basis
    shard = shard_of(first)
    apart = 1 if shard.sequence_parallel else first.tp_size
    inside = ranks_inside(first.tp_size * first.dp_size // apart, nodes)
    crossing = Crossing(
        backend=first.experts.backend,
        moe=moe,
        hidden=first.model.hidden_size,
        activation_bytes=size,
        ranks=first.tp_size * first.dp_size,
        tensor_ranks=first.tp_size,
        nodes=nodes,
        sequence_parallel=shard.sequence_parallel,
        inner=inner,
        outer=outer,
        tensor=tensor,
        peers=group_link(cluster.link, inside, first.where, apart),
    )
    # After the experts the ranks of a replica hold parts of sums, unless each has its own tokens.
    around = partial(_all_reduces_ns, tensor, row, first.tp_size, 1 if shard.sequence_parallel else 2)
    experts = expert_layer(question, moe, shard, first.experts, profile_root)
    over = f" over {nodes} nodes" if nodes > 1 else ""
    within = (crossing.peers or inner).describe()
    told = f"dispatch and combine: {first.experts.backend}, {crossing.ranks} ranks{over}, {within}"
    told += f" inside a node, {outer.describe()} between nodes" if nodes > 1 else ""
    return GroupKind(tables, around, experts, crossing.total_ns), (*tables.basis, *experts.basis, told)


def _all_reduces_ns(link: Link, row_bytes: int, tp_size: int, count: int, tokens: Int64Array) -> Int64Array:
    if tp_size == 1:
        return np.zeros_like(tokens)
    return count * link.all_reduces_ns(tokens * row_bytes, tp_size)
