"""What a group of data-parallel engines is told: vLLM's ``ParallelConfig`` as far as its ranks, its front-ends and
its coordinator read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

LoadBalancing = Literal["internal", "hybrid", "external"]
Generation = Literal["0.32", "0.19"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageLatencies:
    """How long a message takes between two processes of a deployment, by who sends it to whom."""

    front_end_to_engine_ns: int = 0
    engine_to_front_end_ns: int = 0
    front_end_to_coordinator_ns: int = 0
    coordinator_to_front_end_ns: int = 0
    engine_to_coordinator_ns: int = 0
    coordinator_to_engine_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataParallelOptions:
    """A group of ``size`` ranks that run their forwards in lock-step.

    ``sync_interval`` is the number of forwards between two finish all-reduces, each of which takes ``sync_ns``.
    ``prefill_schedule_interval`` N > 1 lets prefills in only at every Nth forward of a wave. ``load_balancing``
    says what a front-end sees: *internal* all ranks, *hybrid* the ranks of its own of ``nodes`` nodes, *external* one
    rank (a request names it). ``ranks_per_node`` is what a config says of the nodes, 0 nothing. ``front_ends`` is
    their number, with *hybrid* the number per node. ``stats_interval_ms`` is the coordinator's shortest interval
    between two publications of counts. ``generation`` is the vLLM release whose balancing formula and wave protocol
    are followed.
    """

    size: int
    sync_interval: int = 16
    sync_ns: int = 0
    prefill_schedule_interval: int = 1
    load_balancing: LoadBalancing = "internal"
    front_ends: int = 1
    nodes: int = 1
    ranks_per_node: int = 0
    stats_interval_ms: int = 100
    generation: Generation = "0.32"
    latencies: MessageLatencies = field(default_factory=MessageLatencies)
