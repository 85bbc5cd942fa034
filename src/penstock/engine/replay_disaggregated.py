"""Prefill and decode apart over a list of requests, watched turn by turn, in the schema of the vLLM recordings."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Any

from penstock.cost.step_cost import PipelineCost
from penstock.engine.kernel import Agenda, Phase
from penstock.engine.local_pipeline import LocalPipeline
from penstock.engine.proxy import Proxy
from penstock.engine.replay import Recorder
from penstock.engine.replay_offloading import StallRecorder, job_row
from penstock.engine.replica import Replica
from penstock.kv_transfer.copy_workers import CopyWorkers
from penstock.kv_transfer.offloading import OffloadingConnector
from penstock.kv_transfer.pull import PullConnector, PullOptions
from penstock.kv_transfer.pull_workers import PullWorkers, PullWorld, ReadPaths
from penstock.kv_transfer.stacked import StackedWorkers, stack_connectors
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.network.links import Network
from penstock.recording.records import Transfer
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.guarded_kv_cache import GuardedKVCache
from penstock.scheduler.kv_connector import KVConnector
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.spec.kv_tier import TierOptions
from penstock.spec.options import SchedulerOptions
from penstock.units import NEVER_NS
from penstock.workload.request import Request


@dataclass(frozen=True, slots=True)
class ReplayInstance:
    """One instance, prefill or decode."""

    name: str
    prefills: bool
    options: SchedulerOptions
    num_gpu_blocks: int
    cost: PipelineCost
    pull: PullOptions
    tier: TierOptions | None = None


@dataclass(slots=True)
class InstanceReplay:
    """What one instance did."""

    recorder: Recorder
    offloading: OffloadingConnector | None = None
    kv_events: list[dict[str, Any]] = field(default_factory=list)
    free_blocks_end: int = 0
    end_ns: int = 0

    @property
    def iterations(self) -> list[dict[str, Any]]:
        """In the schema of the recordings, with request indices for names."""
        return self.recorder.steps.iterations

    @property
    def requests(self) -> dict[int, dict[str, Any]]:
        """Those that the engine took in, likewise."""
        rows = self.recorder.requests.rows
        return {index: row for index, row in rows.items() if row["added_ns"] is not None}

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """Copies to and from its tier, likewise."""
        return [] if self.offloading is None else [job_row(job) for job in self.offloading.all_jobs]


@dataclass(slots=True)
class DisaggregatedReplay:
    """What happened, with request indices for names, in the schema of the recordings."""

    instances: dict[str, InstanceReplay] = field(default_factory=dict)
    requests: dict[int, dict[str, Any]] = field(default_factory=dict)
    transfers: list[dict[str, Any]] = field(default_factory=list)
    heartbeats: list[tuple[int, str, str, tuple[int, ...]]] = field(default_factory=list)
    lease_expired: list[tuple[int, str, int, int]] = field(default_factory=list)
    end_ns: int = 0


class _Clients:
    """Requests and the leaves of clients, as an actor: ``at`` a time, something is done."""

    def __init__(self) -> None:
        self.next_ns: int | None = None
        self._events: list[tuple[int, int, Any]] = []

    def at(self, at_ns: int, happen: Any) -> None:
        """``happen`` at ``at_ns``; before the run only."""
        heapq.heappush(self._events, (at_ns, len(self._events), happen))
        self.next_ns = self._events[0][0]

    def run_until(self, limit_ns: int) -> None:
        """See :class:`~penstock.engine.kernel.Actor`."""
        now = self._events[0][0]
        while self._events and self._events[0][0] == now:
            heapq.heappop(self._events)[2]()
        self.next_ns = self._events[0][0] if self._events else None


def replay_disaggregated(
    instances: Sequence[ReplayInstance],
    requests: Sequence[Request],
    *,
    make_paths: Callable[[Network], ReadPaths],
    proxy_ns: int,
    notify_ns: int = 0,
    handshake_ns: int = 0,
    failing: frozenset[tuple[int, int | None]] = frozenset(),
    direct: frozenset[int] = frozenset(),
    aborts: Sequence[tuple[int, int, str]] = (),
    exact_only: bool = False,
) -> DisaggregatedReplay:
    """Serve ``requests``, those in ``direct`` on a decode instance alone, and write everything down.

    Both sides are taken in turn. ``failing`` reads, by request and stage (None: all), fail. ``aborts``: a request,
    when its client leaves, and the side (``prefill`` | ``decode``) that is told. ``make_paths`` says over which links
    of a network reads go.
    """
    replay = _Replay(instances, make_paths, proxy_ns, notify_ns, handshake_ns, failing, exact_only=exact_only)
    return replay.run(requests, direct, aborts)


class _Replay:
    def __init__(
        self,
        instances: Sequence[ReplayInstance],
        make_paths: Callable[[Network], ReadPaths],
        proxy_ns: int,
        notify_ns: int,
        handshake_ns: int,
        failing: frozenset[tuple[int, int | None]],
        *,
        exact_only: bool,
    ) -> None:
        self.names = [each.name for each in instances]
        self.exact_only = exact_only
        self.result = DisaggregatedReplay()
        self.agenda = Agenda()
        self.clients = _Clients()
        self.network = Network(lambda at_ns: self.agenda.wake(self.network, at_ns))
        self.world = PullWorld(
            self.network,
            make_paths(self.network),
            notify_ns,
            handshake_ns,
            lambda request, stage: not failing.isdisjoint({(request, None), (request, stage)}),
            self._note_transfer,
            self._note_heartbeat,
        )
        self.heartbeats: list[list[tuple[int, int, frozenset[int]]]] = [[] for _ in instances]
        self.recorders: list[Recorder] = []
        self.connectors = {place: PullConnector(each.pull) for place, each in enumerate(instances)}
        self.replicas = [self._replica(place, each) for place, each in enumerate(instances)]
        prefill = cycle([place for place, each in enumerate(instances) if each.prefills])
        decode = cycle([place for place, each in enumerate(instances) if not each.prefills])
        self.proxy = Proxy(
            choose_prefill=lambda request: next(prefill),
            choose_decode=lambda request: next(decode),
            deliver=self._deliver,
            connectors=self.connectors,
            delay_ns=proxy_ns,
            wake=lambda at_ns: self.agenda.wake(self.proxy, at_ns),
        )
        self.agenda.add(self.clients, Phase.MESSAGE, 0)
        self.agenda.add(self.proxy, Phase.MESSAGE, 1)
        self.agenda.add(self.network, Phase.LINK, 0)
        self.states: list[dict[int, RequestState]] = [{} for _ in instances]

    def _replica(self, place: int, instance: ReplayInstance) -> Replica:
        pp_size = len(instance.cost.hops) + 1
        pull = self.connectors[place]
        options, tier = instance.options, instance.tier
        connector: KVConnector = pull
        kv = offloading = None
        if tier is not None:
            kv = GuardedKVCache(
                instance.num_gpu_blocks,
                options.block_size,
                prefix_caching=options.enable_prefix_caching,
                notes_all_fills=not tier.offload_prompt_only,
            )
            offloading = OffloadingConnector(tier, kv, pp_size, keep_jobs=True)
            connector = stack_connectors([pull, offloading])
        scheduler = make_scheduler(
            options,
            pp_size,
            instance.num_gpu_blocks,
            connector=connector,
            kv=kv,
            exact_only=self.exact_only,
        )
        pipeline = LocalPipeline(instance.cost, pp_size)
        recorder = Recorder(times_empty_steps=True)

        def concern(at_ns: int) -> None:
            replica.expect(at_ns)

        sleeps = options.engine_idle_sleep_ns > 0
        workers: StepWorkers = PullWorkers(place, pp_size, pull, self.world, concern, sleeps=sleeps)
        if offloading is not None:
            copies = CopyWorkers(offloading, concern, looks_at_end=instance.pull.looks_at_end)
            workers = StackedWorkers([workers, copies])
            pipeline.ask_before_start(copies.hold_back)
            recorder = StallRecorder(times_empty_steps=True)
            recorder.workers = copies
        pipeline.when_started(workers.started)
        replica = Replica(
            place,
            scheduler,
            pipeline,
            instance.options,
            TurnLog(place, pp_size),
            agenda=self.agenda,
            on_end=partial(self._ended, place, instance),
            watcher=recorder,
            workers=workers,
        )
        recorder.replica, recorder.pipeline = replica, pipeline
        recorder.steps.free_before = scheduler.kv.free
        self.recorders.append(recorder)
        self.agenda.add(replica, Phase.ENGINE, place)
        self.result.instances[instance.name] = InstanceReplay(recorder, offloading)
        return replica

    def run(
        self, requests: Sequence[Request], direct: frozenset[int], aborts: Sequence[tuple[int, int, str]]
    ) -> DisaggregatedReplay:
        """Serve them all."""
        for request in requests:
            self.result.requests[request.index] = {"prefill": None, "decode": None, "decode_sent_ns": None}
            come = self.proxy.arrive_directly if request.index in direct else self.proxy.arrive
            self.clients.at(request.arrival_ns, partial(come, request))
        for index, at_ns, side in aborts:
            self.clients.at(at_ns, partial(self._leave, index, at_ns, side))
        if self.clients.next_ns is not None:
            self.agenda.wake(self.clients, self.clients.next_ns)
        while self.agenda.next_ns() < NEVER_NS:
            self.agenda.run_next(NEVER_NS, alone=False)
        return self._close()

    def _deliver(self, place: int, request: Request, now: int, by: int) -> int:
        replica = self.replicas[place]
        state = RequestState(request, replica.options.max_model_len, now)
        self.states[place][request.index] = state
        self.recorders[place].requests.expect(state)
        replica.deliver(state, by)
        if replica.next_ns is not None:
            self.agenda.wake(replica, replica.next_ns)
        return place

    def _ended(
        self, place: int, instance: ReplayInstance, replica: Replica, state: RequestState, at_ns: int
    ) -> None:
        # Blocks of one whose client has left are free before the next schedule().
        self.recorders[place].steps.free_before = replica.scheduler.status().free_blocks
        if instance.prefills and state.outcome is Outcome.FINISHED:
            self.proxy.answered(state, at_ns)

    def _leave(self, index: int, at_ns: int, side: str) -> None:
        places = self.proxy.prefilled_at if side == "prefill" else self.proxy.decoded_at
        place = places.get(index)
        if place is None:
            return
        self.result.requests[index]["aborted"] = side
        replica = self.replicas[place]
        replica.abort(self.states[place][index], at_ns)
        if replica.next_ns is not None:
            self.agenda.wake(replica, replica.next_ns)

    def _note_transfer(self, transfer: Transfer) -> None:
        self.result.transfers.append(
            {
                "req_id": transfer.request,
                "prefill": self.names[transfer.source],
                "decode": self.names[transfer.target],
                "decode_stage": transfer.stage,
                "blocks": transfer.blocks,
                "bytes": transfer.size_bytes,
                "post_ns": transfer.post_ns,
                "start_ns": transfer.start_ns,
                "end_ns": transfer.end_ns,
                "ok": transfer.is_ok,
            }
        )

    def _note_heartbeat(self, at_ns: int, place: int, source: int, requests: frozenset[int]) -> None:
        self.heartbeats[place].append((at_ns, source, requests))

    def _close(self) -> DisaggregatedReplay:
        result = self.result
        for place, name in enumerate(self.names):
            replica, instance = self.replicas[place], result.instances[name]
            states = list(self.states[place].values())
            self.recorders[place].requests.close(states)
            instance.kv_events = [event for state in states for event in _events(state)]
            instance.free_blocks_end = replica.scheduler.status().free_blocks
            instance.end_ns = replica.now_ns
            reads = self.world.instances[place]
            result.heartbeats += [
                (at_ns, name, self.names[source], tuple(sorted(indices)))
                for at_ns, source, indices in self.heartbeats[place]
            ]
            result.lease_expired += [(at_ns, name, stage, index) for at_ns, stage, index in reads.lease_ends]
        for index, row in result.requests.items():
            for side, places in (("prefill", self.proxy.prefilled_at), ("decode", self.proxy.decoded_at)):
                row[side] = self.names[places[index]] if index in places else None
            row["decode_sent_ns"] = self.proxy.sent_ns.get(index)
        result.end_ns = max(replica.now_ns for replica in self.replicas)
        return result


def _events(state: RequestState) -> list[dict[str, Any]]:
    """The moments of a request's KV, as far as they came."""
    moments: list[tuple[str, int | None]] = [("blocks_freed", state.released_ns)]
    more = {} if state.load is None else {"external_tokens": state.load.tokens}
    if state.load is not None:
        moments += [
            ("load_admitted", state.load.admitted_ns),
            ("recv_reported", state.load.reported_ns),
            ("load_promoted", state.load.promoted_ns),
        ]
    return [
        {"t_ns": at_ns, "kind": kind, "req_id": state.request.index, **more}
        for kind, at_ns in moments
        if at_ns is not None
    ]
