"""What LLMServingSim's configs and options can ask for and Penstock does not simulate.

Refused with one sentence where it would change the result; accepted with a notice where it cannot.
"""

from __future__ import annotations

from typing import Any

from penstock.errors import Problem
from penstock.files.place import Place
from penstock.spec.check import check, shown
from penstock.spec.hardware import find_hardware
from penstock.spec.raw import (
    RawCluster,
    RawInstance,
    RawMemory,
    RawNode,
    RawPlacement,
)
from penstock.units import GIB

_CAPACITY_SLACK = 1.02
"""141 GB on the box are 140.4 GiB to the driver: that is no mistake."""

OFFLOADS = {
    "enable_local_offloading": "offloading of weights to host memory is not simulated",
    "enable_attn_offloading": "offloading of attention to PIM is not simulated",
    "enable_sub_batch_interleaving": "sub-batch interleaving is not simulated",
}
BLOCK_COPY = "has no effect: all layers of a stage are costed alike without it"


def instance_refusals(raw: RawInstance) -> dict[str, str]:
    """Members of an instance that cannot be honoured, each with the reason."""
    return {name: reason for name, reason in OFFLOADS.items() if getattr(raw, name)}


def instance_notices(raw: RawInstance, memory: RawMemory | None, place: Place) -> list[str]:
    """Members of an instance that change nothing, and a capacity that its hardware does not have."""
    notices: list[str] = []
    if raw.enable_block_copy:
        notices.append(f"{place.key('enable_block_copy')}: {BLOCK_COPY}")
    if memory is None:
        return notices
    spot = place.key("npu_mem")
    hardware = find_hardware(raw.hardware) if raw.hardware else None
    if hardware is not None and (memory.mem_size or 0) * GIB > hardware.capacity_bytes * _CAPACITY_SLACK:
        real = hardware.capacity_bytes / GIB
        notices.append(f"{spot.key('mem_size')}: {memory.mem_size:g} GB, where {hardware.name} has {real:g}")
    return notices


def check_placement(raw: RawInstance, place: Place, problems: list[Problem]) -> list[str]:
    """Refuse weights or KV outside the NPU; returns notices. All on the NPU is what is simulated."""
    notices: list[str] = []
    if raw.placement is None:
        return notices
    for spot, entry in _placements(raw.placement, place.key("placement"), problems):
        checked = check(RawPlacement, entry, spot, problems)
        if checked is None:
            continue
        for name in ("weights", "kv_loc"):
            device = getattr(checked.value, name)
            if device not in (None, "npu"):
                problems.append(_elsewhere(spot.key(name), device))
        if checked.value.kv_evict_loc not in (None, "npu", "cpu"):
            problems.append(_elsewhere(spot.key("kv_evict_loc"), checked.value.kv_evict_loc))
        elif checked.value.kv_evict_loc is not None:
            notices.append(f"{spot.key('kv_evict_loc')}: has no effect: preempted requests are recomputed")
    return notices


def _elsewhere(spot: Place, device: str | None) -> Problem:
    return Problem(str(spot), f"placement on {shown(device)} is not simulated: must be 'npu'")


def _placements(value: dict[str, Any], place: Place, problems: list[Problem]) -> list[tuple[Place, Any]]:
    found: list[tuple[Place, Any]] = []
    for key, member in value.items():
        if key == "default":
            found.append((place.key(key), member))
        elif key == "blocks" and isinstance(member, list):
            found += [(place.key(key).item(index), entry) for index, entry in enumerate(member)]
        elif key == "layers" and isinstance(member, dict):
            found += [(place.key(key).key(layer), entry) for layer, entry in member.items()]
        elif key in ("blocks", "layers"):
            kind = "a list" if key == "blocks" else "an object"
            problems.append(Problem(str(place.key(key)), f"must be {kind}, not {shown(member)}"))
        else:
            problems.append(Problem(str(place), f"unknown key '{key}' (default, blocks, layers)"))
    return found


def node_notices(raw: RawNode, place: Place, problems: list[Problem]) -> list[str]:
    """Refuse PIM; say that power is read but not simulated."""
    if raw.cpu_mem is not None and raw.cpu_mem.pim_config is not None:
        spot = place.key("cpu_mem").key("pim_config")
        problems.append(Problem(str(spot), "processing in memory is not simulated"))
    if raw.power is not None:
        return [f"{place.file}: power has no effect: it is not simulated"]
    return []


def node_remarks(raw: RawNode, place: Place, *, has_tier: bool) -> list[str]:
    """Say that host memory changes nothing as long as nothing is placed there."""
    if raw.cpu_mem is None or has_tier:
        return []
    return [f"{place.file}: cpu_mem has no effect: nothing is placed in host memory"]


def cluster_notices(raw: RawCluster, place: Place, *, has_tier: bool) -> list[str]:
    """Say that CXL memory changes nothing as long as nothing is placed there."""
    if raw.cxl_mem is None or has_tier:
        return []
    return [f"{place.key('cxl_mem')}: has no effect: nothing is placed in CXL memory"]
