"""The rules between instances that serve a request in two parts, and what their members come to."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.errors import Problem
from penstock.files.place import Place
from penstock.spec.cluster import InstanceSpec, KvTransferSpec
from penstock.spec.raw import RawKvTransfer

_ONLY_PULL = (
    "proxy_ns",
    "handshake_ns",
    "kv_lease_duration",
    "worker_poll",
    "read_failure_rate",
    "kv_load_failure_policy",
)
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
        read_failure_rate=raw.read_failure_rate or 0.0,
        recomputes_failures=raw.kv_load_failure_policy == "recompute",
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
    if transfer.kv_load_failure_policy is not None and not transfer.read_failure_rate:
        message = "needs read_failure_rate above 0: no read fails without it"
        return [Problem(str(place.key("kv_load_failure_policy")), message)]
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
    return problems
