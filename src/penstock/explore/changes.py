"""Single changes to a deployment, each tied to the causes of bubbles that it moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from penstock.explore.candidate import Candidate
from penstock.explore.expert_changes import expert_changes
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.deployment import Deployment

LINK_FACTOR = 4
Change = Callable[[InstanceSpec], InstanceSpec | None]


def single_changes(cluster: ClusterSpec, deployments: tuple[Deployment, ...]) -> Iterator[Candidate]:
    """All that can be tried without having run anything; ``deployments`` are those of ``cluster``."""
    for factor in (0.25, 0.5, 2, 4):
        yield from _made(
            cluster,
            "chunk size",
            "max_num_batched_tokens",
            ("dependency", "imbalance", "engine"),
            lambda one, factor=factor: _scheduler(
                one, "max_num_batched_tokens", factor, one.scheduler.max_model_len
            ),
        )
    for factor in (0.5, 2, 4):
        yield from _made(
            cluster,
            "max_num_seqs",
            "max_num_seqs",
            ("seqs", "dependency"),
            lambda one, factor=factor: _scheduler(one, "max_num_seqs", factor),
        )
    for more in (-1, 1):
        yield from _made(
            cluster,
            "in-flight depth",
            "max_in_flight",
            ("engine", "dependency"),
            lambda one, more=more: _deeper(one, more),
        )
    yield from _made(
        cluster,
        "engine",
        "engine_idle_sleep_ns",
        ("engine",),
        lambda one: _scheduler(one, "engine_idle_sleep_ns", 0),
    )
    yield from _made(
        cluster,
        "sends",
        "blocking_sends",
        ("blocked", "transfer"),
        lambda one: replace(one, blocking_sends=False) if one.blocking_sends else None,
    )
    yield from _links(cluster)
    yield from _memory(cluster, deployments)
    yield from _parallelism(cluster)
    yield from expert_changes(cluster)


def with_partition(cluster: ClusterSpec, layers: tuple[tuple[int, ...], ...]) -> ClusterSpec:
    """Every instance with the given layers per stage."""
    instances = zip(cluster.instances, layers, strict=True)
    return replace(cluster, instances=tuple(replace(one, layer_partition=of) for one, of in instances))


def _made(
    cluster: ClusterSpec, knob: str, field: str, moves: tuple[str, ...], change: Change
) -> Iterator[Candidate]:
    """The change in every instance that it concerns; nothing if it concerns none."""
    changed = [change(one) for one in cluster.instances]
    if all(one is None for one in changed):
        return
    instances = tuple(new or old for new, old in zip(changed, cluster.instances, strict=True))
    pairs = [
        (_value(old, field), _value(new, field))
        for old, new in zip(cluster.instances, changed, strict=True)
        if new
    ]
    told = ", ".join(dict.fromkeys(f"{before:,} to {after:,}" for before, after in pairs))
    if isinstance(pairs[0][0], bool):
        told = f"{pairs[0][0]} to {pairs[0][1]}".lower()
    yield Candidate(knob, f"{field} {told}", moves, replace(cluster, instances=instances))


def _value(instance: InstanceSpec, field: str) -> Any:
    return getattr(instance if hasattr(instance, field) else instance.scheduler, field)


def _scheduler(
    instance: InstanceSpec, field: str, factor: float, most: int | None = None
) -> InstanceSpec | None:
    before: int = getattr(instance.scheduler, field)
    after = int(before * factor)
    if most is not None:
        after = min(after, most)
    if after == before or (after < 1 and factor):
        return None
    scheduler = instance.scheduler
    if field == "max_num_batched_tokens" and after < scheduler.max_num_seqs:
        return None
    return replace(instance, scheduler=replace(scheduler, **{field: after}))


def _deeper(instance: InstanceSpec, more: int) -> InstanceSpec | None:
    depth = instance.scheduler.max_in_flight + more
    if depth < 1 or instance.pp_size == 1:
        return None
    return replace(instance, scheduler=replace(instance.scheduler, max_in_flight=depth))


def _links(cluster: ClusterSpec) -> Iterator[Candidate]:
    if all(one.tp_size * one.pp_size == 1 for one in cluster.instances):
        return
    classes = cluster.link.classes
    if classes is not None and all(classes):
        return  # measured times stand for bandwidth and latency
    link = replace(
        cluster.link,
        bandwidth_gb_per_s=tuple(value * LINK_FACTOR for value in cluster.link.bandwidth_gb_per_s),
        latency_ns=tuple(value / LINK_FACTOR for value in cluster.link.latency_ns),
    )
    told = f"{LINK_FACTOR} x bandwidth, 1/{LINK_FACTOR} latency"
    yield Candidate("link", told, ("transfer", "blocked"), replace(cluster, link=link))


def _memory(cluster: ClusterSpec, deployments: tuple[Deployment, ...]) -> Iterator[Candidate]:
    instances: list[InstanceSpec] = []
    for one, deployment in zip(cluster.instances, deployments, strict=True):
        blocks = 2 * (deployment.memory.num_gpu_blocks - 1) + 1
        instances.append(replace(one, num_gpu_blocks=blocks))
    yield Candidate(
        "KV memory", "twice the KV blocks", ("memory",), replace(cluster, instances=tuple(instances))
    )


def _parallelism(cluster: ClusterSpec) -> Iterator[Candidate]:
    """Half the stages, each on twice as many NPUs: where there are too few steps to fill the stages."""
    instances: list[InstanceSpec] = []
    for one in cluster.instances:
        if one.pp_size % 2 or one.stage_hardware or one.placement_nodes:
            return
        scheduler = one.scheduler
        if scheduler.max_in_flight == one.pp_size:
            scheduler = replace(scheduler, max_in_flight=one.pp_size // 2)
        shape = {"tp_size": 2 * one.tp_size, "pp_size": one.pp_size // 2}
        instances.append(replace(one, **shape, scheduler=scheduler, layer_partition=None))
    first, new = cluster.instances[0], instances[0]
    told = f"tp {first.tp_size} x pp {first.pp_size} to tp {new.tp_size} x pp {new.pp_size}"
    moves = ("dependency", "fill", "drain")
    yield Candidate("parallelism", told, moves, replace(cluster, instances=tuple(instances)))
