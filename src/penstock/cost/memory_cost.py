"""Stages with memory outside their NPUs: what is placed there, and attention computed there."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.cost.pim import PimLayer, PimStageCost
from penstock.cost.placed import PlacedStageCost
from penstock.cost.placement import device_users, stage_parts
from penstock.cost.stage import TabulatedStageCost
from penstock.cost.step_cost import StageCost
from penstock.cost.weights import activation_bytes
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.layers import GroupedAttention, LayerKind, StageLayers, count_layers


def with_memory(
    instance: InstanceSpec,
    cluster: ClusterSpec,
    pieces: TabulatedStageCost,
    where: tuple[Sequence[StageLayers], Sequence[int]],
    kinds: tuple[LayerKind, ...],
) -> StageCost:
    """The cost of stages ``where[1]`` of ``where[0]``; ``pieces`` are the embedding, a layer of each kind, the head."""
    layers, stages = where
    if instance.pim is not None:
        counts = [count_layers(layers[stage]) for stage in stages]
        ends = (0 in stages, len(layers) - 1 in stages)
        layer = pim_layer(instance, kinds[0])
        return PimStageCost(pieces, layer, counts, ends=ends, interleaves=instance.interleaves)
    placement = instance.placement
    assert placement is not None
    made = [stage_parts(instance, cluster, layers, stage, kinds) for stage in stages]
    prefetch = placement.prefetch_layers or instance.model.num_layers + 2
    return PlacedStageCost(pieces, [parts for parts, _ in made], [sources for _, sources in made], prefetch)


def pim_layer(instance: InstanceSpec, kind: LayerKind) -> PimLayer:
    """A layer's attention as the instance's PIM sees it."""
    attention, pim = kind.attention, instance.pim
    assert isinstance(attention, GroupedAttention)
    assert pim is not None
    split = pim.split(attention.num_kv_heads)
    size = attention.head_dim * activation_bytes(instance.dtype)
    queries = attention.num_heads // instance.tp_size
    keys = 2 * attention.kv_heads_per_rank(instance.tp_size)
    return PimLayer(
        pim=pim,
        heads=attention.num_heads,
        kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        piece_bytes=(queries + keys) * size // split + queries * size // split,
    )


def memory_basis(instance: InstanceSpec, cluster: ClusterSpec) -> tuple[str, ...]:
    """What stands outside the NPUs, and what its times rest on."""
    if instance.pim is not None:
        halves = (
            "; two halves of each step in turns, which reads all weights twice"
            if instance.interleaves
            else ""
        )
        told = (
            f"decodes attend in memory: {instance.pim.name}, {instance.pim.channels} channels, by LLMServingSim's "
            f"coefficients, whose origin is not documented{halves}"
        )
        return (told,)
    placement = instance.placement
    if placement is None:
        return ()
    users = device_users(cluster)
    devices = [
        f"{one.name} {one.bytes_per_ns:g} GB/s"
        + (f" over {users[one.name]} stages" if users[one.name] > 1 else "")
        for one in placement.devices
        if users[one.name]
    ]
    ahead = placement.prefetch_layers
    room = "all layers" if ahead is None or ahead > instance.model.num_layers else f"{ahead} layers"
    told = f"placed elsewhere: loaded anew every step from {', '.join(devices)}; room for {room} on the NPU"
    return (told,)
