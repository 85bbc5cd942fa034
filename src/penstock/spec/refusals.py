"""What LLMServingSim's configs and options can ask for and Penstock does not simulate.

Refused with one sentence where it would change the result; accepted with a notice where it cannot.
"""

from __future__ import annotations

from penstock.files.place import Place
from penstock.spec.hardware import find_hardware
from penstock.spec.raw import (
    RawCluster,
    RawInstance,
    RawMemory,
    RawNode,
)
from penstock.units import GIB

_CAPACITY_SLACK = 1.02
"""141 GB on the box are 140.4 GiB to the driver: that is no mistake."""

LOCAL_OFFLOADING = "has no effect: kernel times include reading the weights from the NPU's own memory"
BLOCK_COPY = "has no effect: all layers of a stage are costed alike without it"


def instance_notices(raw: RawInstance, memory: RawMemory | None, place: Place) -> list[str]:
    """Members of an instance that change nothing, and a capacity that its hardware does not have."""
    notices: list[str] = []
    if raw.enable_block_copy:
        notices.append(f"{place.key('enable_block_copy')}: {BLOCK_COPY}")
    if raw.enable_local_offloading:
        notices.append(f"{place.key('enable_local_offloading')}: {LOCAL_OFFLOADING}")
    if memory is None:
        return notices
    spot = place.key("npu_mem")
    hardware = find_hardware(raw.hardware) if raw.hardware else None
    if hardware is not None and (memory.mem_size or 0) * GIB > hardware.capacity_bytes * _CAPACITY_SLACK:
        real = hardware.capacity_bytes / GIB
        notices.append(f"{spot.key('mem_size')}: {memory.mem_size:g} GB, where {hardware.name} has {real:g}")
    return notices


def node_remarks(raw: RawNode, place: Place, *, is_used: bool) -> list[str]:
    """Say that host memory changes nothing as long as nothing is placed there."""
    if raw.cpu_mem is None or is_used:
        return []
    return [f"{place.file}: cpu_mem has no effect: nothing is placed in host memory"]


def cluster_notices(raw: RawCluster, place: Place, *, is_used: bool) -> list[str]:
    """Say that CXL memory changes nothing as long as nothing is placed there."""
    if raw.cxl_mem is None or is_used:
        return []
    return [f"{place.key('cxl_mem')}: has no effect: nothing is placed in CXL memory"]
