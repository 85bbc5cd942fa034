"""The rules between instances that serve a request in two parts, and what their members come to."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.errors import Problem
from penstock.spec.cluster import InstanceSpec, KvTransferSpec, TierSpec
from penstock.spec.json_file import Place
from penstock.spec.raw import RawHostMemory, RawKvOffloading, RawKvTransfer
from penstock.units import GIB

_ONLY_PULL = ("proxy_ns", "handshake_ns", "kv_lease_duration", "worker_poll")
_ONLY_PUSH = ("num_reserved_decode_tokens",)


def kv_transfer_spec(raw: RawKvTransfer | None) -> KvTransferSpec:
    """``kv_transfer`` of a cluster."""
    if raw is None:
        return KvTransferSpec()
    return KvTransferSpec(
        kind=raw.kind,
        num_reserved_decode_tokens=_or(
            raw.num_reserved_decode_tokens, KvTransferSpec().num_reserved_decode_tokens
        ),
        proxy_ns=raw.proxy_ns or 0,
        notify_ns=raw.notify_ns,
        handshake_ns=raw.handshake_ns or 0,
        lease_s=raw.kv_lease_duration or KvTransferSpec().lease_s,
        looks_at_end=raw.worker_poll == "end",
        decode_router=raw.decode_router,
        policy=raw.policy or ("always" if raw.max_local_prefill_length is None else "conditional"),
        max_local_prefill_length=raw.max_local_prefill_length or 0,
        max_prefill_queue_size=raw.max_prefill_queue_size,
    )


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


def check_roles(
    instances: Sequence[InstanceSpec], transfer: RawKvTransfer | None, place: Place
) -> list[Problem]:
    """What is wrong with prefill and decode instances as a whole."""
    roles = {spec.pd_type for spec in instances}
    if roles <= {None}:
        if transfer is None:
            return []
        return [Problem(str(place.key("kv_transfer")), "there are no prefill and decode instances (pd_type)")]
    if None in roles:
        without = next(spec for spec in instances if spec.pd_type is None)
        return [
            Problem(
                f"{without.where}.pd_type",
                "must be prefill or decode where other instances are: this one would get no requests",
            )
        ]
    for role, other in (("decode", "prefill"), ("prefill", "decode")):
        if role not in roles:
            return [
                Problem(
                    place.file,
                    f"there are {other} instances and no {role} instance: nobody goes on with them",
                )
            ]
    return [*_check_policy(transfer, place.key("kv_transfer")), *_check_likeness(instances)]


def _check_policy(transfer: RawKvTransfer | None, place: Place) -> list[Problem]:
    """Whether the members that one policy or kind reads are there for it, and for no other."""
    if transfer is None:
        return []
    foreign = _ONLY_PULL if transfer.kind == "push" else _ONLY_PUSH
    other = "pull" if transfer.kind == "push" else "push"
    strangers = [
        Problem(str(place.key(name)), f"needs kind '{other}', which alone looks at it")
        for name in foreign
        if getattr(transfer, name) is not None
    ]
    if strangers:
        return strangers
    if transfer.policy == "conditional" and transfer.max_local_prefill_length is None:
        message = "needs max_local_prefill_length: up to so many tokens a decode instance computes itself"
        return [Problem(str(place.key("policy")), message)]
    is_conditional = transfer.policy == "conditional" or (
        transfer.policy is None and transfer.max_local_prefill_length is not None
    )
    return [
        Problem(str(place.key(name)), "needs policy 'conditional', which alone looks at it")
        for name in ("max_local_prefill_length", "max_prefill_queue_size")
        if getattr(transfer, name) is not None and not is_conditional
    ]


def _check_likeness(instances: Sequence[InstanceSpec]) -> list[Problem]:
    first = next(spec for spec in instances if spec.pd_type == "prefill")
    problems: list[Problem] = []
    for spec in instances:
        if spec.model.name != first.model.name:
            problems.append(
                Problem(
                    f"{spec.where}.model_name",
                    f"must be {first.model.name}, as instance {first.index} has: KV fits no other model",
                )
            )
        elif spec.scheduler.block_size != first.scheduler.block_size:
            problems.append(
                Problem(
                    f"{spec.where}.block_size",
                    f"must be {first.scheduler.block_size}, as instance {first.index} has, not "
                    f"{spec.scheduler.block_size}: blocks are read whole",
                )
            )
        elif spec.kv_cache_dtype != first.kv_cache_dtype or spec.dtype != first.dtype:
            problems.append(
                Problem(
                    f"{spec.where}.kv_cache_dtype",
                    f"instance {first.index} keeps its KV in another type: blocks are read as they are",
                )
            )
        if spec.tier is not None:
            problems.append(
                Problem(
                    f"{spec.where}.kv_offloading",
                    "is not simulated together with pd_type: leave one of them out",
                )
            )
    return problems


def tier_spec(
    raw: RawKvOffloading | None,
    host: RawHostMemory | None,
    sharers: int,
    place: Place,
    problems: list[Problem],
) -> TierSpec | None:
    """An instance's tier; None where it has none. ``sharers`` instances of the node divide its ``cpu_mem``."""
    if raw is None:
        return None
    spot = place.key("kv_offloading")
    size_gb = raw.cpu_gb
    if size_gb is None and host is not None and host.mem_size is not None:
        size_gb = host.mem_size / sharers
    if size_gb is None:
        problems.append(Problem(str(spot), "needs cpu_gb, or the node a cpu_mem with mem_size"))
        return None
    if not size_gb:
        problems.append(
            Problem(str(spot.key("cpu_gb")), "a tier of size 0 holds nothing: leave kv_offloading out")
        )
        return None
    speed = host.mem_bw if host is not None else None
    latency_ns = round(host.mem_latency) if host is not None else 0
    speeds: dict[str, int] = {}
    for way in ("d2h", "h2d"):
        given = getattr(raw, f"{way}_gb_per_s") or speed
        if not given:
            problems.append(
                Problem(str(spot), f"needs {way}_gb_per_s, or the node a cpu_mem with mem_bw above 0")
            )
            return None
        speeds[way] = round(given * GIB)
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
    )
