"""Recordings of one instance with a CPU tier: what an engine is given to repeat one, and its run beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.cost.step_cost import PipelineCost
from penstock.spec.kv_tier import TierOptions
from penstock.spec.options import SchedulerOptions
from penstock.validate.differences import (
    ITERATION_FIELDS,
    instance_difference,
    named_iteration,
    named_requests,
    short,
)
from penstock.validate.recordings import Recording
from penstock.workload.request import Request

TIER_ITERATION_FIELDS = (*ITERATION_FIELDS, "stall_ns")
JOB_FIELDS = (
    "kind",
    "req_id",
    "t_schedule_ns",
    "gpu_blocks",
    "first_block",
    "cpu_chunks",
    "stages",
    "reported_ns",
)


@dataclass(frozen=True, slots=True)
class OffloadingSetup:
    """One instance and its requests. ``looks_at_end``: workers look for finished copies after the forward of a
    step, not as it starts."""

    options: SchedulerOptions
    num_gpu_blocks: int
    cost: PipelineCost
    tier: TierOptions
    requests: tuple[Request, ...]
    looks_at_end: bool = False


class OffloadingTrace(Protocol):
    """What happened, with request indices for names. ``jobs`` in the schema of the recordings."""

    @property
    def iterations(self) -> list[dict[str, Any]]: ...

    @property
    def requests(self) -> dict[int, dict[str, Any]]: ...

    @property
    def kv_events(self) -> list[dict[str, Any]]: ...

    @property
    def jobs(self) -> list[dict[str, Any]]: ...

    @property
    def free_blocks_end(self) -> int: ...

    @property
    def end_ns(self) -> int: ...


class OffloadingEngine(Protocol):
    """Anything that serves requests on an instance with a CPU tier and writes down what it did."""

    def __call__(self, setup: OffloadingSetup, /) -> OffloadingTrace: ...


def is_offloading(data: Mapping[str, Any]) -> bool:
    """Whether a recording is of an instance with a CPU tier."""
    return "offload" in data


def read_offloading_setup(recording: Recording) -> OffloadingSetup:
    """What was recorded, less what came of it."""
    offload = recording.data["offload"]
    return OffloadingSetup(
        options=recording.options(),
        num_gpu_blocks=recording.num_gpu_blocks,
        cost=recording.cost(),
        tier=TierOptions(
            cpu_chunks=offload["cpu_chunks"],
            blocks_per_chunk=offload["blocks_per_chunk"],
            eviction_policy=offload["eviction_policy"],
            offload_prompt_only=offload["offload_prompt_only"],
            store_threshold=offload["store_threshold"],
            kv_bytes_per_token=offload["kv_bytes_per_token"],
            d2h_latency_ns=offload["d2h_latency_ns"],
            d2h_bytes_per_s=offload["d2h_bandwidth_Bps"],
            h2d_latency_ns=offload["h2d_latency_ns"],
            h2d_bytes_per_s=offload["h2d_bandwidth_Bps"],
        ),
        requests=tuple(recording.requests()),
        looks_at_end=recording.data["config"]["worker_poll"] == "end",
    )


def run_offloading(recording: Recording, engine: OffloadingEngine) -> dict[str, Any]:
    """An engine's run of a recording's requests, in the recording's schema."""
    return as_recording(recording, engine(read_offloading_setup(recording)))


def as_recording(recording: Recording, trace: OffloadingTrace) -> dict[str, Any]:
    """A trace in the schema of the recordings."""
    names = recording.request_ids
    return {
        "case": recording.case,
        "num_iterations": len(trace.iterations),
        "end_ns": trace.end_ns,
        "free_blocks_end": trace.free_blocks_end,
        "unfinished": [
            names[index] for index, row in sorted(trace.requests.items()) if row["finish_ns"] is None
        ],
        "iterations": [named_iteration(row, names, TIER_ITERATION_FIELDS) for row in trace.iterations],
        "per_request": named_requests(trace.requests, names),
        "kv_events": [{**event, "req_id": names[event["req_id"]]} for event in trace.kv_events],
        "jobs": [
            {"job": number, **row, "req_id": names[row["req_id"]]} for number, row in enumerate(trace.jobs)
        ],
    }


def first_difference(recorded: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """The first field in which ``ours`` is not what was recorded, in words; None if none is."""
    found = instance_difference(recorded, ours, TIER_ITERATION_FIELDS)
    if found is not None:
        return found[1]
    for number, (expected, actual) in enumerate(zip(recorded["jobs"], ours["jobs"], strict=False)):
        for field in JOB_FIELDS:
            if expected[field] != actual[field]:
                return (
                    f"job {number}: {field}: recorded {short(expected[field])}, ours {short(actual[field])}"
                )
    counts = len(recorded["jobs"]), len(ours["jobs"])
    return None if counts[0] == counts[1] else f"jobs: recorded {counts[0]}, ours {counts[1]}"
