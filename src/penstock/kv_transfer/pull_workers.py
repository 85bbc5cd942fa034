"""The workers of an instance with a pull connector (``kv_connector/v1/nixl/pull_worker.py``, ``base_worker.py``).

What a worker would see when it looks is worked out when the step comes back: all that had arrived by its moment in
the step is known then.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from penstock.kv_transfer.pull import Orders, PullConnector, Read
from penstock.kv_transfer.step_workers import pass_moments
from penstock.network.links import Link, Network
from penstock.recording.records import Transfer
from penstock.scheduler.step import Step
from penstock.units import NEVER_NS, NS_PER_S

_DELIVERY = -1
"""What passes over a link comes before what workers do at the same instant."""

Message = tuple[int, int, int, object]
"""Arrival, place of the sender (ties), number, content."""


class ReadPaths(Protocol):
    """The way from one instance's KV to another's."""

    def links(self, source: int, target: int, stage: int) -> tuple[Link, ...]:
        """What a read by ``stage`` of instance ``target`` takes."""
        ...

    def read_ns(self, source: int, target: int, stage: int, blocks: int) -> tuple[int, int, int]:
        """Bytes of a read of ``blocks`` of the target's blocks, how long it takes its links, and how long it takes."""
        ...


@dataclass(frozen=True, slots=True)
class PullWorld:
    """What all instances that take part share. ``notify_ns``: from a read's end until its source knows.
    ``handshake_ns``: before a stage's first read from an instance. ``fails`` says of a read by a stage that it does.
    ``on_transfer`` is given every read once it is under way, ``on_heartbeat`` when leases are renewed, by which
    instance, at which, and for which requests."""

    network: Network
    paths: ReadPaths
    notify_ns: int = 0
    handshake_ns: int = 0
    fails: Callable[[int, int], bool] = lambda request, stage: False
    on_transfer: Callable[[Transfer], None] = lambda transfer: None
    on_heartbeat: Callable[[int, int, int, frozenset[int]], None] | None = None
    instances: dict[int, PullWorkers] = field(default_factory=dict)


@dataclass(slots=True)
class _Stage:
    """One worker. ``moments`` of the steps that have not come back, ``orders`` that it has not had its moment for,
    ``reads`` that wait for a handshake, ``ends`` of reads under way, ``inbox`` what others sent it, ``leases`` by
    request and in order of their (earliest) ends, and up to when they were ``renewed`` since."""

    moments: deque[int] = field(default_factory=deque)
    orders: deque[tuple[int, Orders]] = field(default_factory=deque)
    reads: list[Read] = field(default_factory=list)
    handshakes: dict[int, int] = field(default_factory=dict)
    ends: list[tuple[int, int, bool]] = field(default_factory=list)
    inbox: list[Message] = field(default_factory=list)
    to_send: set[int] = field(default_factory=set)
    leases: dict[int, int] = field(default_factory=dict)
    renewed: dict[int, int] = field(default_factory=dict)
    lease_ends: list[tuple[int, int]] = field(default_factory=list)
    notified: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _HasRead:
    """A stage has read a request's blocks; a sender waits for ``readers`` such."""

    request: int
    readers: int


class PullWorkers:
    """A :class:`~penstock.kv_transfer.step_workers.StepWorkers`. ``concerns`` is told of times at which something
    happens that the engine may be waiting for. One that ``sleeps`` between turns looks at its own times, and hears of
    heartbeats too; for those alone no other looks. ``late_reads`` counts reads of blocks that were given up before,
    ``lease_ends`` are when that was, on which stage, and of which request."""

    def __init__(
        self,
        place: int,
        pp_size: int,
        connector: PullConnector,
        world: PullWorld,
        concerns: Callable[[int], None],
        *,
        sleeps: bool = True,
    ) -> None:
        self.place = place
        self.pp_size = pp_size
        self.connector = connector
        self.world = world
        self.late_reads = 0
        self.lease_ends: list[tuple[int, int, int]] = []
        self._concerns = concerns
        self._sleeps = sleeps
        self._stages = [_Stage() for _ in range(pp_size)]
        self._looks_at_end = connector.options.looks_at_end
        self._extension_ns = connector.options.lease_s * 2 // 3 * NS_PER_S
        self._number = 0
        self._received: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        self._failed: set[int] = set()
        world.instances[place] = self

    # --- moments --------------------------------------------------------------------------------------------

    def started(self, step: Step, stage: int, start_ns: int, end_ns: int) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        worker = self._stages[stage]
        at_ns = end_ns if self._looks_at_end else start_ns
        if worker.orders or worker.reads or self.connector.latest:
            self._moment(step, stage, at_ns)
        else:
            worker.moments.append(at_ns)

    def passed(self, step: Step, now: int, stage_free_ns: list[int]) -> int:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        has_news = bool(self.connector.latest)
        for stage, free_ns in enumerate(stage_free_ns):
            worker = self._stages[stage]
            at_ns = free_ns if free_ns > now else now
            if has_news or worker.orders or worker.reads:
                self._moment(step, stage, at_ns)
            else:
                worker.moments.append(at_ns)
        return now

    def quiet_until_ns(self) -> int:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        until_ns = NEVER_NS
        for worker in self._stages:
            if worker.orders or worker.reads:
                return 0
            while worker.lease_ends and worker.lease_ends[0][1] not in worker.leases:
                heapq.heappop(worker.lease_ends)  # its reader has been
            for heap in (worker.inbox, worker.ends, worker.lease_ends):
                if heap and heap[0][0] < until_ns:
                    until_ns = heap[0][0]
        return until_ns

    def went_by(self, older: int, times: Sequence[Sequence[int]]) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        for stage, worker in enumerate(self._stages):
            pass_moments(worker.moments, older, times, stage, at_end=self._looks_at_end)

    def _moment(self, step: Step, stage: int, at_ns: int) -> None:
        if self.connector.latest:
            for entry in self.connector.latest:
                for worker in self._stages:
                    worker.orders.append(entry)
            self.connector.latest.clear()
        worker = self._stages[stage]
        worker.moments.append(at_ns)
        orders = None
        if worker.orders and worker.orders[0][0] == step.number:
            orders = worker.orders.popleft()[1]
        if orders is not None or worker.reads:
            self._act(worker, stage, at_ns, orders)

    def _act(self, worker: _Stage, stage: int, now: int, orders: Orders | None) -> None:
        """Start this step's reads, then those whose handshake is done, note leases, renew others'."""
        if orders is not None:
            for read in orders.reads:
                self._read(worker, stage, now, read)
        if worker.reads:
            waited, worker.reads = worker.reads, []
            for read in waited:
                self._read(worker, stage, now, read)
        if orders is None:
            return
        worker.to_send.update(orders.admitted)
        worker.to_send.difference_update(orders.dropped)
        for index, end_ns in orders.held.items():
            self._lease(worker, index, now + end_ns - orders.scheduled_ns)
        for source, indices in orders.renewed.items():
            if self._shakes_hands(worker, now, source):
                if self.world.on_heartbeat is not None:
                    self.world.on_heartbeat(now, self.place, source, indices)
                self.world.instances[source].hear(now, self.place, indices)

    def _shakes_hands(self, worker: _Stage, now: int, source: int) -> bool:
        """Whether the handshake with ``source`` is done; the first call starts it."""
        handshake_ns = self.world.handshake_ns
        if not handshake_ns:
            return True
        done_ns = worker.handshakes.get(source)
        if done_ns is None:
            worker.handshakes[source] = now + handshake_ns
            self._concerns(now + handshake_ns)
            return False
        return done_ns <= now

    # --- reads ----------------------------------------------------------------------------------------------

    def _read(self, worker: _Stage, stage: int, now: int, read: Read) -> None:
        if not self._shakes_hands(worker, now, read.source):
            worker.reads.append(read)
            return
        if not read.blocks:
            self.world.instances[read.source].notify(
                now + self.world.notify_ns, stage, self.pp_size, read.request
            )
            return
        paths = self.world.paths
        size, occupancy_ns, arrival_ns = paths.read_ns(read.source, self.place, stage, read.blocks)
        self.world.network.transfer(
            paths.links(read.source, self.place, stage),
            occupancy_ns=occupancy_ns,
            arrival_ns=arrival_ns,
            at_ns=now,
            arrived=partial(self._reads, worker, stage, now, read, size),
            rank=(self.place << 10) + stage,
        )

    def _reads(
        self, worker: _Stage, stage: int, post_ns: int, read: Read, size: int, start_ns: int, end_ns: int
    ) -> None:
        """A read has got its links."""
        ok = not self.world.fails(read.request, stage)
        heapq.heappush(worker.ends, (end_ns, read.request, ok))
        self._concerns(end_ns)
        if ok:
            notify_ns = end_ns + self.world.notify_ns
            self.world.instances[read.source].notify(notify_ns, stage, self.pp_size, read.request)
        self.world.on_transfer(
            Transfer(
                read.request, read.source, self.place, stage, read.blocks, size, post_ns, start_ns, end_ns, ok
            )
        )

    # --- what others send -----------------------------------------------------------------------------------

    def notify(self, at_ns: int, reader: int, readers: int, request: int) -> None:
        """Stage ``reader`` of ``readers`` has read what is its of a request's blocks here."""
        for stage, worker in enumerate(self._stages):
            shared = _shared_stages(stage, self.pp_size, readers)
            if reader in shared:
                self._send(worker, at_ns, _DELIVERY, _HasRead(request, len(shared)))
        self._concerns(at_ns)

    def hear(self, at_ns: int, sender: int, requests: frozenset[int]) -> None:
        """A reader will still come for these requests' blocks."""
        for worker in self._stages:
            self._send(worker, at_ns, sender, requests)
        if self._sleeps:
            self._concerns(at_ns)

    def _send(self, worker: _Stage, at_ns: int, sender: int, content: object) -> None:
        self._number += 1
        heapq.heappush(worker.inbox, (at_ns, sender, self._number, content))

    # --- looks ----------------------------------------------------------------------------------------------

    def collect(self, now: int) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        received: list[int] = []
        sent: list[int] = []
        failing: list[int] = []
        for stage, worker in enumerate(self._stages):
            moment = worker.moments.popleft()
            if not (worker.inbox or worker.ends or worker.lease_ends):
                continue
            if worker.inbox and worker.inbox[0][0] <= moment:
                self._read_inbox(worker, moment, sent)
            ends = worker.ends
            while ends and ends[0][0] <= moment:
                _, request, ok = heapq.heappop(ends)
                self._count(self._received, request, received)
                if not ok:
                    failing.append(request)
                    self._failed.add(request)
            lease_ends = worker.lease_ends
            while lease_ends and lease_ends[0][0] <= moment:
                self._look_at_lease(worker, stage, moment, sent)
        if received or sent or failing:
            failed = self._failed.intersection(received)
            self._failed -= failed
            self.connector.bring(received, sent, failing, failed)

    def _read_inbox(self, worker: _Stage, moment: int, sent: list[int]) -> None:
        inbox = worker.inbox
        while inbox and inbox[0][:2] < (moment, self.place):
            content = heapq.heappop(inbox)[3]
            if isinstance(content, _HasRead):
                self._note_read(worker, content, sent)
            elif isinstance(content, frozenset):
                renewed = worker.leases.keys() & content
                worker.renewed.update(dict.fromkeys(renewed, moment + self._extension_ns))

    def _note_read(self, worker: _Stage, content: _HasRead, sent: list[int]) -> None:
        request = content.request
        if request not in worker.to_send:
            self.late_reads += 1
            return
        count = worker.notified.get(request, 0) + 1
        worker.notified[request] = count
        if count == content.readers:
            self._give_up(worker, request)
            self._count(self._sent, request, sent)

    def _lease(self, worker: _Stage, request: int, end_ns: int) -> None:
        if request in worker.to_send:
            worker.leases[request] = end_ns
            heapq.heappush(worker.lease_ends, (end_ns, request))
            self._concerns(end_ns)

    def _look_at_lease(self, worker: _Stage, stage: int, moment: int, sent: list[int]) -> None:
        """A lease was to end by now, when it was noted."""
        _, request = heapq.heappop(worker.lease_ends)
        end_ns = worker.leases.get(request)
        if end_ns is None:
            return
        end_ns = max(end_ns, worker.renewed.get(request, 0))
        if end_ns > moment:
            heapq.heappush(worker.lease_ends, (end_ns, request))
            self._concerns(end_ns)
            return
        self._give_up(worker, request)
        self.lease_ends.append((moment, stage, request))
        self._count(self._sent, request, sent)

    @staticmethod
    def _give_up(worker: _Stage, request: int) -> None:
        worker.to_send.discard(request)
        worker.leases.pop(request, None)
        worker.renewed.pop(request, None)
        worker.notified.pop(request, None)

    def _count(self, counts: dict[int, int], request: int, done: list[int]) -> None:
        """One more stage has reported a request; all of them make it done."""
        count = counts.get(request, 0) + 1
        if count == self.pp_size:
            counts.pop(request, None)
            done.append(request)
        else:
            counts[request] = count


def _shared_stages(stage: int, stages: int, others: int) -> range:
    """Stages of a pipeline of ``others`` that share layers with ``stage`` of one of ``stages``, both split evenly."""
    return range(stage * others // stages, -(-(stage + 1) * others // stages))
