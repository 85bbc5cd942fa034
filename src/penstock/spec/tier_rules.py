"""Tiers of KV below the GPU: what the members of an instance, its node and the cluster come to, and who shares one."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.errors import Problem
from penstock.files.place import Place
from penstock.spec.cluster import InstanceSpec, TierSpec
from penstock.spec.option_table import RawFlags
from penstock.spec.raw import RawCxlMemory, RawHostMemory, RawKvOffloading
from penstock.units import GIB

LLMSERVINGSIM_CHUNK_TOKENS = 256


def asked_by_flags(flags: RawFlags, block_size: int) -> RawKvOffloading | None:
    """What LLMServingSim's ``--prefix-storage`` and ``--enable-prefix-sharing`` come to for an instance."""
    if flags.prefix_storage in (None, "None"):
        return None
    is_cxl = flags.prefix_storage == "CXL"
    shared = "cluster" if is_cxl else "node"
    return RawKvOffloading(
        store="cxl" if is_cxl else None,
        shared=shared if flags.enable_prefix_sharing else "instance",
        load="sync",
        offload_prompt_only=False,
        blocks_per_chunk=max(1, LLMSERVINGSIM_CHUNK_TOKENS // block_size),
    )


FLAG_NOTICE = (
    "--prefix-storage is kv_offloading with load sync and chunks of 256 tokens: unlike in LLMServingSim, each NPU "
    "copies its own share, stores take time and may be refused, the least recently used goes first, and instances with "
    "tiers of their own divide cpu_mem"
)


def tier_spec(
    raw: RawKvOffloading | None,
    host: RawHostMemory | None,
    cxl: RawCxlMemory | None,
    sharers: int,
    place: Place,
    problems: list[Problem],
) -> TierSpec | None:
    """An instance's tier; None where it has none. ``sharers`` instances of the node divide its ``cpu_mem``, unless one
    tier is theirs together."""
    if raw is None:
        return None
    spot = place.key("kv_offloading")
    found = len(problems)
    problems += _store_problems(raw, cxl, spot)
    size_gb = _size_gb(raw, host, cxl, 1 if raw.shared == "node" else sharers)
    if size_gb is None and len(problems) == found:
        needs = "store_gb" if raw.store == "network" else "cpu_gb, or the node a cpu_mem with mem_size"
        problems.append(Problem(str(spot), f"needs {needs}"))
    elif size_gb == 0:
        name = "cpu_gb" if raw.store is None else "store_gb"
        problems.append(
            Problem(str(spot.key(name)), "a tier of size 0 holds nothing: leave kv_offloading out")
        )
    speeds: dict[str, int] = {}
    for way in ("d2h", "h2d"):
        given = getattr(raw, f"{way}_gb_per_s") or (host.mem_bw if host is not None else None)
        if not given:
            problems.append(
                Problem(str(spot), f"needs {way}_gb_per_s, or the node a cpu_mem with mem_bw above 0")
            )
            break
        speeds[way] = round(given * GIB)
    if len(problems) > found or size_gb is None:
        return None
    latency_ns = round(host.mem_latency) if host is not None else 0
    store_speed, store_latency_ns = _store_link(raw, cxl)
    return TierSpec(
        size_bytes=round(size_gb * GIB),
        d2h_bytes_per_s=speeds["d2h"],
        h2d_bytes_per_s=speeds["h2d"],
        d2h_latency_ns=latency_ns if raw.d2h_latency_ns is None else raw.d2h_latency_ns,
        h2d_latency_ns=latency_ns if raw.h2d_latency_ns is None else raw.h2d_latency_ns,
        blocks_per_chunk=raw.blocks_per_chunk,
        eviction_policy=raw.eviction_policy,
        offload_prompt_only=raw.offload_prompt_only,
        store_threshold=raw.store_threshold,
        shared=raw.shared,
        loads_first=raw.load == "sync",
        store_bytes_per_s=store_speed,
        store_latency_ns=store_latency_ns,
    )


def _store_problems(raw: RawKvOffloading, cxl: RawCxlMemory | None, spot: Place) -> list[Problem]:
    if raw.store is None:
        found = [
            Problem(str(spot.key(name)), "needs a store: cxl or network")
            for name in ("store_gb", "store_gb_per_s", "store_latency_ns")
            if getattr(raw, name) is not None
        ]
        if raw.shared == "cluster":
            message = "needs a store (cxl or network): host memory is a node's"
            found.append(Problem(str(spot.key("shared")), message))
        return found
    if raw.store == "network" and raw.store_gb_per_s is None:
        return [Problem(str(spot), "needs store_gb_per_s, the bandwidth of the way to the store")]
    if raw.store == "cxl" and raw.store_gb_per_s is None and not (cxl is not None and cxl.mem_bw):
        return [Problem(str(spot), "needs store_gb_per_s, or the cluster a cxl_mem with mem_bw above 0")]
    if raw.store == "cxl" and raw.store_gb is None and (cxl is None or cxl.mem_size is None):
        return [Problem(str(spot), "needs store_gb, or the cluster a cxl_mem with mem_size")]
    return []


def _size_gb(
    raw: RawKvOffloading, host: RawHostMemory | None, cxl: RawCxlMemory | None, sharers: int
) -> float | None:
    if raw.store is not None:
        if raw.store_gb is not None or raw.store == "network":
            return raw.store_gb
        return None if cxl is None or cxl.mem_size is None else cxl.mem_size * max(1, cxl.num_devices)
    if raw.cpu_gb is not None:
        return raw.cpu_gb
    return None if host is None or host.mem_size is None else host.mem_size / sharers


def _store_link(raw: RawKvOffloading, cxl: RawCxlMemory | None) -> tuple[int | None, int]:
    """Bytes per second of the way to the store, None where there is none, and its latency in ns."""
    if raw.store is None:
        return None, 0
    speed = raw.store_gb_per_s
    latency_ns = raw.store_latency_ns
    if raw.store == "cxl" and cxl is not None:
        speed = speed or (cxl.mem_bw or 0) * max(1, cxl.num_devices)
        latency_ns = round(cxl.mem_latency) if latency_ns is None else latency_ns
    return round((speed or 0) * GIB), latency_ns or 0


def sharing_problems(instances: Sequence[InstanceSpec]) -> list[Problem]:
    """Instances that share a tier must have the same blocks to put there."""
    problems: list[Problem] = []
    first_of: dict[tuple[str, int], InstanceSpec] = {}
    for spec in instances:
        if spec.tier is None or spec.tier.shared == "instance":
            continue
        place = spec.node if spec.tier.shared == "node" else 0
        first = first_of.setdefault((spec.tier.shared, place), spec)
        for called, here, there in (
            ("model_name", spec.model.name, first.model.name),
            ("dtype", (spec.dtype, spec.kv_cache_dtype), (first.dtype, first.kv_cache_dtype)),
            ("block_size", spec.scheduler.block_size, first.scheduler.block_size),
            ("kv_offloading", spec.tier, first.tier),
        ):
            if here != there:
                message = f"differs from that of instance {first.index}, with which it shares a tier of KV"
                problems.append(Problem(f"{spec.where}.{called}", message))
                break
    return problems


def placed_kv_problems(instances: Sequence[InstanceSpec]) -> list[Problem]:
    """What moves between instances, and to a tier, is what lies on the NPUs."""
    outside = "KV outside of the NPUs (kv_loc) is not moved to another instance or tier"
    return [
        Problem(
            f"{spec.where}.placement",
            f"{outside}: leave it on the NPUs, or leave out {'kv_offloading' if spec.pd_type is None else 'pd_type'}",
        )
        for spec in instances
        if spec.placement is not None
        and any(spec.placement.kv)
        and (spec.tier is not None or spec.pd_type is not None)
    ]
