"""The member ``autoscaling`` of a cluster config to an :class:`AutoscalingSpec`, and what it does not go with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from penstock.errors import Problem
from penstock.files.place import Place
from penstock.spec.autoscaling import AutoscalingSpec
from penstock.spec.cluster import InstanceSpec
from penstock.spec.placement import PlacementSpec
from penstock.spec.raw import RawAutoscaling
from penstock.units import NS_PER_S


def autoscaling_spec(
    raw: RawAutoscaling | None,
    instances: Sequence[InstanceSpec],
    place: Place,
    problems: list[Problem],
) -> AutoscalingSpec | None:
    """What is read; None where the config has none, or mistakes, which go to ``problems``."""
    if raw is None:
        return None
    spot = place.key("autoscaling")
    found = len(problems)

    def blame(message: str, key: str | None = None) -> None:
        problems.append(Problem(str(spot.key(key) if key else spot), message))

    if raw.target is None:
        blame("missing key 'target'")
    elif raw.metric == "kv" and raw.target > 1:
        blame(f"must be a share of the KV blocks, above 0 and up to 1, not {raw.target:g}", "target")
    if raw.min_replicas > len(instances):
        blame(
            f"{raw.min_replicas} is more than the {len(instances)} instances of the cluster", "min_replicas"
        )
    apart = any(one.pd_type is not None for one in instances)
    ranks = any(one.dp_size > 1 for one in instances)
    first = _without_place(instances[0])
    other = next((one for one in instances if _without_place(one) != first), None)
    if apart:
        blame("goes with instances that serve whole requests, not with prefill and decode apart ('pd_type')")
    if ranks:
        blame("goes with instances that stand alone, not with data-parallel ranks ('data_parallel_size')")
    if other is not None and not (apart or ranks):
        blame(f"needs instances that are all alike: {other.where} differs from {instances[0].where}")
    if len(problems) > found:
        return None
    assert raw.target is not None
    return AutoscalingSpec(
        metric=raw.metric,
        target=raw.target,
        min_replicas=raw.min_replicas,
        start_up_ns=round(raw.start_up_s * NS_PER_S),
        interval_ns=max(round(raw.interval_s * NS_PER_S), 1),
        down_after_ns=round(raw.down_after_s * NS_PER_S),
    )


def _without_place(instance: InstanceSpec) -> InstanceSpec:
    placement = instance.placement
    if placement is not None:
        placement = _in_any_node(placement)
    return replace(instance, index=0, node=0, where="", placement_nodes=None, placement=placement)


def _in_any_node(placement: PlacementSpec) -> PlacementSpec:
    """Host memory is each node's own: ``cpu:3`` becomes ``cpu``."""

    def rows(given: Sequence[tuple[str, str | None]]) -> tuple[tuple[str, str | None], ...]:
        return tuple((row, _kind(device)) for row, device in given)

    return replace(
        placement,
        devices=tuple(replace(one, name=_kind(one.name) or "") for one in placement.devices),
        weights=tuple(rows(layer) for layer in placement.weights),
        edges=rows(placement.edges),
        kv=tuple(_kind(device) for device in placement.kv),
    )


def _kind(device: str | None) -> str | None:
    return "cpu" if device is not None and device.startswith("cpu:") else device
