"""What ``summary.json`` must hold for a comparison: the members that are read, each with its range."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from penstock.spec.check import Recorded

Whole = Annotated[int, Field(ge=0, le=2**62)]
Figure = Annotated[float, Field(ge=-1e30, le=1e30)]


class Requests(Recorded):
    """``summary.requests``."""

    finished: Whole
    rejected: Whole
    preemptions: Whole


class Statistics(Recorded):
    """A member of ``summary.latency``."""

    mean_ns: Figure
    p50_ns: Figure
    p99_ns: Figure


class Latency(Recorded):
    """``summary.latency``."""

    ttft: Statistics | None
    tpot: Statistics | None
    itl: Statistics | None
    latency: Statistics | None
    queuing: Statistics | None


class Throughput(Recorded):
    """``summary.throughput``."""

    requests_per_s: Figure
    prompt_tokens_per_s: Figure
    generated_tokens_per_s: Figure


class Stage(Recorded):
    """An entry of an instance's ``stages``."""

    hardware: str
    weights_bytes: Whole
    stranded_bytes: Whole
    busy_ns: Whole
    causes_ns: dict[str, Whole] | None


class Instance(Recorded):
    """An entry of ``summary.instances``."""

    instance: Whole
    model: str
    tp_size: Annotated[int, Field(ge=1, le=1 << 20)]
    pp_size: Annotated[int, Field(ge=1, le=1 << 20)]
    kv_tokens: Whole
    stages: Annotated[list[Stage], Field(min_length=1)]
    basis: list[str]
    notes: list[str]


class Rejection(Recorded):
    """An entry of ``summary.rejections``."""

    request: Whole
    reason: str


class ReplicaUse(Recorded):
    """``summary.autoscaling``."""

    instances: Annotated[int, Field(ge=1, le=1 << 40)]
    mean_replicas: Annotated[float, Field(gt=0, le=1e12)]


class Summary(Recorded):
    """``summary``."""

    requests: Requests
    engine: dict[str, Any]
    simulated_ns: Whole
    first_arrival_ns: Whole
    last_completion_ns: Whole | None
    throughput: Throughput | None
    latency: Latency
    instances: Annotated[list[Instance], Field(min_length=1)]
    rejections: list[Rejection]
    notices: list[str]
    autoscaling: ReplicaUse | None = None


class Scheduler(Recorded):
    """``scheduler`` of an entry of ``inputs.instances``."""

    block_size: Annotated[int, Field(ge=1, le=1 << 40)]


class InstanceInput(Recorded):
    """An entry of ``inputs.instances``."""

    scheduler: Scheduler


class Inputs(Recorded):
    """``inputs``."""

    instances: list[InstanceInput]


class SavedRun(Recorded):
    """The top of the file."""

    inputs: Inputs
    summary: Summary
