"""Prefill and decode on different instances, behind a proxy that takes both in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import Any

from penstock.validate.disaggregated_setup import DisaggregatedSetup, InstanceSetup
from penstock.workload.request import Request

from .connected import ConnectedScheduler
from .offloading import CopyEngine, OffloadingConnector, OffloadWorker
from .pull import PullConnector, PullWorker, World
from .replica import DELIVERY, Agenda, Replica
from .scheduler import RequestState
from .stacked import StackedConnector, StackedReplica, StackedWorker


@dataclass(slots=True)
class InstanceTrace:
    """What one instance did, with request indices for names."""

    iterations: list[dict[str, Any]]
    requests: dict[int, dict[str, Any]]
    kv_events: list[dict[str, Any]]
    free_blocks_end: int
    end_ns: int
    jobs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class DisaggregatedTrace:
    """What happened, with request indices for names."""

    instances: dict[str, InstanceTrace]
    requests: dict[int, dict[str, Any]] = field(default_factory=dict)
    transfers: list[dict[str, Any]] = field(default_factory=list)
    heartbeats: list[tuple[int, str, str, tuple[int, ...]]] = field(default_factory=list)
    lease_expired: list[tuple[int, str, int, int]] = field(default_factory=list)
    late_reads: set[int] = field(default_factory=set)
    end_ns: int = 0


class Disaggregation:
    """The proxy, its instances, and the clock they share."""

    def __init__(self, setup: DisaggregatedSetup) -> None:
        self.agenda = Agenda()
        self.setup = setup
        self.world = World(setup.transfer, self)
        self.replicas: dict[str, Replica] = {}
        self.connectors: dict[str, PullConnector] = {}
        self.tiers: dict[str, OffloadingConnector] = {}
        for place, instance in enumerate(setup.instances):
            self._build(place, instance)
        self.prefill_turn = cycle([each.name for each in setup.instances if each.prefills])
        self.decode_turn = cycle([each.name for each in setup.instances if not each.prefills])
        self.requests = {request.index: request for request in setup.requests}
        self.rows: dict[int, dict[str, Any]] = {}

    def _build(self, place: int, instance: InstanceSetup) -> None:
        name, pp_size = instance.name, len(instance.cost.hops) + 1
        connector = PullConnector(
            role=instance.kv_role, lease_s=instance.lease_s, clock=lambda: self.agenda.now
        )
        options = instance.options
        tier = None
        if instance.tier is not None:
            tier = self.tiers[name] = OffloadingConnector(
                instance.tier, options.block_size, pp_size, gpu_caching=options.enable_prefix_caching
            )
        scheduler = ConnectedScheduler(
            options,
            instance.num_gpu_blocks,
            pp_size,
            connector if tier is None else StackedConnector(connector, tier),
            lambda kind, index, **more: replica.note(kind, index, **more),
            recomputes_failures=instance.recomputes_failures,
        )
        workers = [
            PullWorker(name, stage, pp_size, instance.options.block_size, instance.lease_s, self.world)
            for stage in range(pp_size)
        ]
        ends = instance.looks_at_end
        if tier is None or instance.tier is None:
            replica = Replica(place, name, scheduler, instance.cost, workers, self.agenda, looks_at_end=ends)
        else:
            copies = [
                OffloadWorker(stage, CopyEngine(instance.tier, options.block_size, pp_size))
                for stage in range(pp_size)
            ]
            both = [StackedWorker(read, copy) for read, copy in zip(workers, copies, strict=True)]
            replica = StackedReplica(
                place, name, scheduler, instance.cost, both, self.agenda, looks_at_end=ends
            )
            replica.stack(instance.cost, copies)
            scheduler.hashes_blocks = True
            tier.scheduler, tier.replica = scheduler, replica
        if instance.prefills:
            replica.on_finish = lambda state: self._answered(name, state)
        self.world.workers[name] = workers
        self.replicas[name] = replica
        self.connectors[name] = connector

    def at(self, at_ns: int, instance: str, happen: Callable[[], None]) -> None:
        """See :class:`reference.pull.Deliveries`."""

        def deliver() -> None:
            happen()
            self.replicas[instance].wake()

        self.agenda.at(at_ns, DELIVERY, (), deliver)

    def run(self) -> DisaggregatedTrace:
        """Serve all requests."""
        for request in self.setup.requests:
            self.rows[request.index] = {"prefill": None, "decode": None, "decode_sent_ns": None}
            send = self._send_to_decode if request.index in self.setup.direct else self._send_to_prefill
            self.agenda.at(request.arrival_ns, DELIVERY, (), partial(send, request))
        for index, at_ns, side in self.setup.aborts:
            self.agenda.at(at_ns, DELIVERY, (), partial(self._leave, index, side))
        self.agenda.run()
        instances = {
            name: InstanceTrace(
                replica.trace.iterations,
                replica.trace.requests,
                replica.kv_events,
                len(replica.scheduler.kv.free),
                replica.now,
                [job.row() for job in self.tiers[name].all_jobs] if name in self.tiers else [],
            )
            for name, replica in self.replicas.items()
        }
        return DisaggregatedTrace(
            instances,
            self.rows,
            self.world.transfers,
            self.world.heartbeats,
            self.world.lease_expired,
            self.world.late_reads,
            self.agenda.now,
        )

    def _send_to_prefill(self, request: Request) -> None:
        name = next(self.prefill_turn)
        self.rows[request.index]["prefill"] = name
        self.connectors[name].for_others.add(request.index)
        self.replicas[name].deliver("add", replace(request, output_tokens=1))

    def _answered(self, prefill: str, state: RequestState) -> None:
        request = self.requests[state.request.index]
        sent = self.agenda.now + self.setup.proxy_ns
        self.agenda.at(sent, DELIVERY, (), partial(self._send_to_decode, request, prefill))

    def _send_to_decode(self, request: Request, prefill: str | None = None) -> None:
        decode = next(self.decode_turn)
        if prefill is not None:
            self.connectors[decode].sources[request.index] = prefill
        now = self.agenda.now
        self.rows[request.index].update(decode=decode, decode_sent_ns=now)
        self.replicas[decode].deliver("add", replace(request, arrival_ns=now))

    def _leave(self, index: int, side: str) -> None:
        row = self.rows[index]
        name = row[side]
        if name is None:
            return
        row["aborted"] = side
        self.replicas[name].deliver("abort", index)


def replay_disaggregated(setup: DisaggregatedSetup) -> DisaggregatedTrace:
    """Serve the requests of ``setup``."""
    return Disaggregation(setup).run()
