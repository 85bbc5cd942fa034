"""Everything the clocks of one instance need, compiled from its spec: stages, hops, the tokens' way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from penstock.cost.building_blocks import GroupLink, group_link
from penstock.cost.calibrated import calibrated_stage, calibration_basis
from penstock.cost.memory_cost import memory_basis, with_memory
from penstock.cost.network import BlockLink, Int64Array, Link, MeasuredLink, inner_link, outer_link
from penstock.cost.question import CostQuestion
from penstock.cost.sources import kernel_tables
from penstock.cost.stage import MixedStageCost, StageRole, TabulatedStageCost
from penstock.cost.step_cost import HopCost, PipelineCost, StageCost
from penstock.cost.tables import Curve, KernelTables
from penstock.cost.weights import activation_bytes, shard_of
from penstock.errors import Problem, UserError
from penstock.spec.calibration import obstacles
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.layers import LayerGroup, LayerKind, MoeMlp, StageLayers, count_layers
from penstock.spec.options import EngineOverhead
from penstock.units import NS_PER_US

TOKEN_BYTES = 4
"""A sampled token id on its way from the last stage to the engine (int32)."""


def compile_cost(
    instance: InstanceSpec, cluster: ClusterSpec, layers: tuple[StageLayers, ...], profile_root: Path | None
) -> PipelineCost:
    """Costs of an instance whose stages hold ``layers``.

    Raises:
        UserError: no profile and unknown hardware, a broken bundle, or a calibration that says nothing of it.
    """
    inner = group_link(cluster.link, instance.tp_size, instance.where)
    stage, basis = _stage_cost(instance, cluster, layers, profile_root)
    links = [_link_between(instance, cluster, stage, stage + 1) for stage in range(len(layers) - 1)]
    back = _link_between(instance, cluster, len(layers) - 1, 0)
    basis += (
        *memory_basis(instance, cluster),
        *instance.model.notes,
        *_network_basis(instance, inner, links),
    )
    return PipelineCost(
        stage=stage,
        hops=tuple(
            _hop(instance, link, inner, shared_link(instance, cluster, stage))
            for stage, link in enumerate(links)
        ),
        token_return_ns=_token_return(instance, back),
        basis=tuple(basis),
    )


def _stage_cost(
    instance: InstanceSpec, cluster: ClusterSpec, layers: tuple[StageLayers, ...], profile_root: Path | None
) -> tuple[StageCost, list[str]]:
    """The stages' cost and what it rests on: kernel times, changed or replaced by a calibration."""
    calibration = instance.calibration
    if calibration is not None:
        # A change of the instance after it was calibrated may have left what the calibration can speak of.
        problems = [Problem(instance.where, why) for why in obstacles(instance, calibration)]
        if problems:
            raise UserError(problems)
    counts = [count_layers(stage) for stage in layers]
    if calibration is not None and calibration.step is not None:
        return calibrated_stage(None, calibration, counts), calibration_basis(calibration)
    members, basis = _stages(instance, cluster, layers, profile_root)
    stage = members[0][0] if len(members) == 1 else MixedStageCost(members)
    if calibration is None:
        return stage, basis
    return calibrated_stage(stage, calibration, counts), [*basis, *calibration_basis(calibration)]


def _pieces(kinds: tuple[LayerKind, ...]) -> list[StageRole]:
    """The embedding, a layer of each kind, and the head, as if they were stages."""
    return [
        StageRole(layers=(), first=True, last=False),
        *(StageRole(layers=(LayerGroup(kind, 1),), first=False, last=False) for kind in kinds),
        StageRole(layers=(), first=False, last=True),
    ]


def _stages(
    instance: InstanceSpec, cluster: ClusterSpec, layers: tuple[StageLayers, ...], profile_root: Path | None
) -> tuple[list[tuple[StageCost, tuple[int, ...]]], list[str]]:
    """One cost per hardware with the stages it answers for, and what it rests on."""
    labels = instance.stage_hardware or (instance.hardware,) * len(layers)
    hidden_bytes = instance.model.hidden_size * activation_bytes(instance.dtype)
    inner = group_link(cluster.link, instance.tp_size, instance.where)
    members: list[tuple[StageCost, tuple[int, ...]]] = []
    basis: list[str] = []
    for label in dict.fromkeys(labels):
        stages = tuple(stage for stage, own in enumerate(labels) if own == label)
        tables = {
            kind: layer_tables(cost_question(instance, label, kind), instance, profile_root)
            for kind in dict.fromkeys(group.kind for stage in stages for group in layers[stage])
        }
        outside = instance.placement is not None or instance.pim is not None
        kernels = TabulatedStageCost(
            tables,
            _pieces(tuple(tables))
            if outside
            else [
                StageRole(layers=layers[stage], first=stage == 0, last=stage == len(layers) - 1)
                for stage in stages
            ],
            max_tokens=instance.scheduler.max_num_batched_tokens,
            block_extra_ns=partial(_collectives_ns, inner, hidden_bytes, instance.tp_size)
            if instance.tp_size > 1
            else None,
            prefill_layer_ns=0.0  # a calibration adds its own, beside the factors
            if instance.calibration is not None
            else instance.overhead.prefill_step_ns / instance.model.num_layers,
        )
        cost = (
            with_memory(instance, cluster, kernels, (layers, stages), tuple(tables)) if outside else kernels
        )
        members.append((cost, stages))
        prefix = "" if len(set(labels)) == 1 else f"stages {', '.join(map(str, stages))} on {label}: "
        told = dict.fromkeys(note for one in tables.values() for note in one.basis)
        basis += (prefix + note for note in told)
    return members, basis


def layer_tables(question: CostQuestion, instance: InstanceSpec, profile_root: Path | None) -> KernelTables:
    """Kernels of one kind of layer, its experts among them."""
    tables = kernel_tables(question, profile_root)
    moe = question.kind.mlp
    if not isinstance(moe, MoeMlp):
        return tables
    from penstock.cost.experts.layer import expert_layer

    layer = expert_layer(question, moe, shard_of(instance), instance.experts, profile_root)
    whole = Curve(layer.routed.sizes, layer.alone_us(layer.routed.sizes))
    return replace(tables, dense={**tables.dense, "moe": whole}, basis=(*tables.basis, *layer.basis))


def cost_question(instance: InstanceSpec, hardware: str, kind: LayerKind) -> CostQuestion:
    """What times are asked for of the layers of one kind of an instance on a hardware."""
    return CostQuestion(
        hardware=hardware,
        model=instance.model,
        kind=kind,
        tp_size=instance.tp_size,
        dtype=instance.dtype,
        kv_cache_dtype=instance.kv_cache_dtype,
        max_tokens=instance.scheduler.max_num_batched_tokens,
        engine="sglang" if instance.engine.startswith("sglang") else "vllm",
        lookup=instance.profile_lookup,
    )


def _collectives_ns(link: Link, hidden_bytes: int, tp_size: int, tokens: Int64Array) -> Int64Array:
    """The two all-reduces of one decoder block: after o_proj and after down_proj."""
    return 2 * link.all_reduces_ns(tokens * hidden_bytes, tp_size)


def _link_between(instance: InstanceSpec, cluster: ClusterSpec, here: int, there: int) -> Link:
    nodes = instance.placement_nodes
    if nodes is None or nodes[here] == nodes[there]:
        return replace(inner_link(cluster.link), name="inside a node")
    return replace(outer_link(cluster.link), name="across nodes")


def shared_link(instance: InstanceSpec, cluster: ClusterSpec, stage: int) -> str | None:
    """The name of the link that the hop after ``stage`` shares with all others that leave its node."""
    nodes = instance.placement_nodes
    if not cluster.shared_node_links or nodes is None or nodes[stage] == nodes[stage + 1]:
        return None
    return f"out of node {nodes[stage]}"


def _hop(instance: InstanceSpec, link: Link, inner: Link, shared_link: str | None) -> HopCost:
    """Rank i sends its slice of each tensor to rank i of the next stage, which gathers them over its TP group
    (vLLM ``distributed/parallel_state.py: GroupCoordinator.send_tensor_dict``). Over a shared link the slices of
    all ranks go one after the other."""
    ranks, tensors = instance.tp_size, instance.activation_tensors
    tokens = np.arange(instance.scheduler.max_num_batched_tokens + 1)
    tensor_bytes = tokens * (instance.model.hidden_size * activation_bytes(instance.dtype))
    sent = tensors * tensor_bytes // (1 if shared_link else ranks)
    gathers = tensors * inner.all_gathers_ns(tensor_bytes, ranks)
    return HopCost(
        arrival_ns=(link.messages_ns(sent) + gathers).tolist(),
        occupancy_ns=link.occupancies_ns(sent).tolist(),
        shared_link=shared_link,
    )


def _token_return(instance: InstanceSpec, link: Link) -> Sequence[int]:
    options = instance.scheduler
    count = min(options.max_num_seqs, options.max_num_batched_tokens) + 1
    if instance.pp_size == 1 or not instance.token_return:
        return [0] * count
    return link.messages_ns(np.arange(count) * TOKEN_BYTES).tolist()


def _network_basis(instance: InstanceSpec, inner: Link, links: list[Link]) -> list[str]:
    basis: list[str] = []
    if instance.tp_size > 1:
        basis.append(
            f"all-reduce over {instance.tp_size} ranks: "
            + (
                inner.describe()
                if isinstance(inner, MeasuredLink | BlockLink | GroupLink)
                else f"ASTRA-Sim's analytical ring, {inner.describe()}"
            )
        )
    for name in dict.fromkeys(link.name for link in links):
        link = next(one for one in links if one.name == name)
        hops = [str(stage) for stage, one in enumerate(links) if one.name == name]
        gathers = " and the receiver's all-gathers" if instance.tp_size > 1 else ""
        basis.append(
            f"hop after stage {', '.join(hops)}: {instance.activation_tensors} tensors of tokens x "
            f"{instance.model.hidden_size}, {name}, {link.describe()}{gathers}"
        )
    overhead = instance.overhead
    if overhead == EngineOverhead():
        return [*basis, "engine: no overhead per turn"]
    basis.append(
        f"engine: {(overhead.schedule_ns + overhead.update_ns) / NS_PER_US:g} us a turn, "
        f"{overhead.prefill_step_ns / NS_PER_US:g} us more in a step with a prefill chunk ({overhead.source})"
    )
    return basis
