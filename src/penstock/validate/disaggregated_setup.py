"""Recordings of prefill and decode apart: what an engine is given to repeat one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.cost.step_cost import PipelineCost
from penstock.spec.kv_tier import TierOptions
from penstock.spec.options import SchedulerOptions
from penstock.validate.recordings import Recording
from penstock.workload.request import Request


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """The wire. ``serialise``: what one read keeps others from: nothing (``none``), its pair of instances
    (``pair``), its stage of the decode instance (``d_stage``), or the outgoing port of the one and the incoming
    port of the other instance (``both``). A read takes what it needs for latency + bytes / bandwidth.

    ``notify_ns``: from a read's end until the prefill side's workers know. ``handshake_ns``: before a stage's
    first read from an instance, 0 where it was done beforehand. ``failing``: reads that fail, by request and
    stage, None for all stages.
    """

    latency_ns: int
    bandwidth_bytes_per_s: int
    kv_bytes_per_token: int
    serialise: str = "none"
    notify_ns: int = 0
    handshake_ns: int = 0
    failing: frozenset[tuple[int, int | None]] = frozenset()


@dataclass(frozen=True, slots=True)
class InstanceSetup:
    """One instance. ``kv_role``: kv_producer | kv_consumer | kv_both. ``recomputes_failures``: vLLM's
    ``kv_load_failure_policy`` is ``recompute``, not ``fail``. ``lease_s`` is ``kv_lease_duration``.
    ``looks_at_end``: workers look for finished transfers after the forward of a step, not as it starts. ``tier``: a
    CPU tier below its GPUs; no recording has one."""

    name: str
    prefills: bool
    kv_role: str
    options: SchedulerOptions
    num_gpu_blocks: int
    cost: PipelineCost
    recomputes_failures: bool = False
    lease_s: int = 30
    looks_at_end: bool = False
    tier: TierOptions | None = None


@dataclass(frozen=True, slots=True)
class DisaggregatedSetup:
    """Prefill and decode instances behind a proxy that takes both in turn and needs ``proxy_ns`` to send a
    prompt on. ``direct`` requests go straight to a decode instance. ``aborts``: a request, the time at which its
    client leaves, and the side (``prefill`` | ``decode``) that is told."""

    instances: tuple[InstanceSetup, ...]
    transfer: TransferOptions
    proxy_ns: int
    requests: tuple[Request, ...]
    direct: frozenset[int] = frozenset()
    aborts: tuple[tuple[int, int, str], ...] = ()


def is_disaggregated(data: Mapping[str, Any]) -> bool:
    """Whether a recording is of several instances and the transfers between them."""
    return "instances" in data and "transfer" in data


def read_setup(recording: Recording) -> DisaggregatedSetup:
    """What was recorded, less what came of it."""
    data = recording.data
    index_of = {name: index for index, name in enumerate(recording.request_ids)}
    transfer = data["transfer"]
    return DisaggregatedSetup(
        instances=tuple(_instance(recording, entry) for entry in data["instances"]),
        transfer=TransferOptions(
            latency_ns=transfer["latency_ns"],
            bandwidth_bytes_per_s=transfer["bandwidth_Bps"],
            kv_bytes_per_token=transfer["kv_bytes_per_token"],
            serialise=transfer["serialise"],
            notify_ns=transfer["notify_ns"],
            handshake_ns=transfer["handshake_ns"],
            failing=frozenset((index_of[name], stage) for name, stage in transfer["fail"]),
        ),
        proxy_ns=data["proxy"]["proxy_ns"],
        requests=tuple(recording.requests()),
        direct=frozenset(index_of[entry["req_id"]] for entry in data["requests"] if entry.get("direct")),
        aborts=tuple((index_of[name], at_ns, side) for name, at_ns, side in data.get("aborts", ())),
    )


def _instance(recording: Recording, entry: Mapping[str, Any]) -> InstanceSetup:
    config = entry["config"]
    part = Recording(recording.source, {**recording.data, **entry})
    return InstanceSetup(
        name=entry["name"],
        prefills=entry["role"] == "prefill",
        kv_role=entry["kv_role"],
        options=part.options(),
        num_gpu_blocks=part.num_gpu_blocks,
        cost=part.cost(),
        recomputes_failures=config["kv_load_failure_policy"] == "recompute",
        lease_s=config["kv_lease_duration"],
        looks_at_end=config["worker_poll"] == "end",
    )
