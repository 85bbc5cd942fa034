"""vLLM's NIXL pull connector (``kv_connector/v1/nixl/``): a decode instance reads a prompt's KV from the instance
that computed it. Both sides, scheduler and workers, over virtual links."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from penstock.validate.disaggregated_setup import TransferOptions

from .connected import WorkerReport
from .kv_cache import Block
from .scheduler import RequestState, Schedule

NS_PER_S = 1_000_000_000


class Wire:
    """When each link is free next."""

    def __init__(self, options: TransferOptions) -> None:
        self.options = options
        self._free: dict[tuple[object, ...], int] = defaultdict(int)

    def read(self, now: int, prefill: str, decode: str, stage: int, size: int) -> tuple[int, int]:
        """Start and end of a read of ``size`` bytes that is posted now."""
        links: dict[str, list[tuple[object, ...]]] = {
            "none": [],
            "pair": [(prefill, decode)],
            "d_stage": [(decode, stage)],
            "both": [("out", prefill), ("in", decode)],
        }
        taken = links[self.options.serialise]
        start = max([now, *(self._free[link] for link in taken)])
        end = start + self.options.latency_ns - -size * NS_PER_S // self.options.bandwidth_bytes_per_s
        for link in taken:
            self._free[link] = end
        return start, end


@dataclass(frozen=True, slots=True)
class Read:
    """What a decode instance's workers are to read; no blocks: only tell ``prefill`` that nothing will be read."""

    request: int
    prefill: str
    blocks: int


@dataclass(frozen=True, slots=True)
class PullMetadata:
    """What a step tells the workers. ``held`` are finished requests with the time at which their lease ends."""

    scheduled_ns: int
    reads: tuple[Read, ...] = ()
    admitted: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()
    held: Mapping[int, int] = field(default_factory=dict)
    heartbeats: Mapping[str, frozenset[int]] = field(default_factory=dict)


class PullConnector:
    """The scheduler's side, of either role. ``sources`` says for each request whose KV lies elsewhere where."""

    def __init__(self, *, role: str, lease_s: int, clock: Callable[[], int]) -> None:
        self.consumes = role in ("kv_consumer", "kv_both")
        self.hands_over = role in ("kv_producer", "kv_both")
        self.lease_ns = lease_s * NS_PER_S
        self.heartbeat_ns = lease_s // 6 * NS_PER_S
        self.clock = clock
        self.sources: dict[int, str] = {}
        self.for_others: set[int] = set()
        self._fetched: set[int] = set()
        self._reads: list[Read] = []
        self._admitted: set[int] = set()
        self._dropped: set[int] = set()
        self._held: dict[int, int] = {}
        self._renewing: dict[int, str] = {}
        self._last_heartbeat_ns: int | None = None

    def added(self, state: RequestState) -> None:
        """Leases are renewed from a request's arrival on."""
        index = state.request.index
        if index in self.sources:
            self._renewing[index] = self.sources[index]

    def matched_tokens(self, state: RequestState, local: int) -> int | None:
        """All of the prompt, once."""
        index = state.request.index
        if index not in self.sources or index in self._fetched:
            return 0
        return max(state.request.input_tokens - local, 0)

    def allocated(self, state: RequestState, blocks: Sequence[Block], local_blocks: int, loaded: int) -> None:
        """Blocks without a hash are read."""
        index = state.request.index
        if index in self.for_others:
            self._admitted.add(index)
        elif index in self.sources and index not in self._fetched:
            self._fetched.add(index)
            self._reads.append(Read(index, self.sources[index], len(blocks) - local_blocks))

    def scheduled(self, schedule: Schedule) -> PullMetadata:
        """Everything since the last step."""
        now = self.clock()
        heartbeats: dict[str, set[int]] = defaultdict(set)
        due = self._last_heartbeat_ns is None or now - self._last_heartbeat_ns >= self.heartbeat_ns
        if self._renewing and due:
            self._last_heartbeat_ns = now
            for index, prefill in self._renewing.items():
                heartbeats[prefill].add(index)
        metadata = PullMetadata(
            now,
            tuple(self._reads),
            frozenset(self._admitted),
            frozenset(self._dropped),
            self._held,
            {prefill: frozenset(indices) for prefill, indices in heartbeats.items()},
        )
        self._reads, self._admitted, self._dropped, self._held = [], set(), set(), {}
        return metadata

    def finished(self, state: RequestState) -> bool:
        """A prompt computed for others keeps its blocks under a lease."""
        index = state.request.index
        self._renewing.pop(index, None)
        if index in self.sources:
            if index not in self._fetched:
                self._fetched.add(index)
                self._reads.append(Read(index, self.sources[index], 0))
            return False
        if index not in self.for_others:
            return False
        if state.status != "finished":
            self._dropped.add(index)
            return False
        self._held[index] = self.clock() + self.lease_ns
        return True

    def reported(self, report: WorkerReport) -> None:
        """A load that is over needs no lease."""
        for index in report.received:
            self._renewing.pop(index, None)

    def has_pending_work(self) -> bool:
        """A pull asks nothing of an engine without requests."""
        return False


class Deliveries(Protocol):
    """What a worker can start that happens later."""

    def at(self, at_ns: int, instance: str, happen: Callable[[], None]) -> None:
        """``happen`` at ``at_ns``, and ``instance`` then looks at what it has."""


@dataclass(slots=True)
class Reading:
    """A read on its way."""

    end_ns: int
    ok: bool


class PullWorker:
    """One stage of one instance. ``act`` is what it does in a step, ``look`` what it then sees."""

    def __init__(
        self, name: str, stage: int, pp_size: int, block_size: int, lease_s: int, world: World
    ) -> None:
        self.name, self.stage, self.pp_size, self.block_size = name, stage, pp_size, block_size
        self.extension_ns = lease_s * 2 // 3 * NS_PER_S
        self.world = world
        self.reading: dict[int, Reading] = {}
        self.known: set[str] = set()
        self.shaking: set[str] = set()
        self.waiting: list[Read] = []
        self.to_process: set[int] = set()
        self.leases: dict[int, int] = {}
        self.inbox: list[tuple[str, Any]] = []
        self._notified: dict[int, set[int]] = defaultdict(set)

    def moment(self, now: int, metadata: PullMetadata) -> WorkerReport:
        """The stage's one moment in a step."""
        for read in metadata.reads:
            self._read(now, read)
        ready = [read for read in self.waiting if read.prefill in self.known]
        self.waiting = [read for read in self.waiting if read.prefill not in self.known]
        for read in ready:
            self._read(now, read)
        self.to_process |= metadata.admitted
        self.to_process -= metadata.dropped
        for index, end_ns in metadata.held.items():
            if index in self.to_process:
                self._lease(index, now + end_ns - metadata.scheduled_ns)
        for prefill, indices in metadata.heartbeats.items():
            if self._shake_hands(now, prefill):
                self.world.heartbeat(now, self, prefill, indices)
        return self._look(now)

    def _read(self, now: int, read: Read) -> None:
        if not self._shake_hands(now, read.prefill):
            self.waiting.append(read)
            return
        if not read.blocks:
            self.world.notify(now, self, read)
            return
        end, ok = self.world.read(now, self, read)
        self.reading[read.request] = Reading(end, ok)

    def _shake_hands(self, now: int, prefill: str) -> bool:
        """Whether the handshake is done; the first call starts it."""
        if prefill in self.known or not self.world.options.handshake_ns:
            return True
        if prefill not in self.shaking:
            self.shaking.add(prefill)
            self.world.at(now + self.world.options.handshake_ns, self.name, lambda: self.known.add(prefill))
        return False

    def _lease(self, index: int, end_ns: int) -> None:
        self.leases[index] = end_ns
        self.world.at(end_ns, self.name, lambda: None)

    def _look(self, now: int) -> WorkerReport:
        report = WorkerReport()
        for kind, what in self.inbox:
            if kind == "heartbeat":
                for index in sorted(what):
                    if index in self.leases:
                        self._lease(index, max(self.leases[index], now + self.extension_ns))
            elif self._note_read(*what):
                report.sent.add(what[0])
        self.inbox.clear()
        for index, reading in list(self.reading.items()):
            if reading.end_ns <= now:
                del self.reading[index]
                report.received.add(index)
                if not reading.ok:
                    report.failed.add(index)
        for index, end_ns in list(self.leases.items()):
            if end_ns <= now:
                self._forget(index)
                self.world.expired(now, self, index)
                report.sent.add(index)
        return report

    def _note_read(self, index: int, stage: int, stages: int) -> bool:
        """A stage of the decode instance has read; whether all that share layers with this one have."""
        if index not in self.to_process:
            self.world.late_reads.add(index)
            return False
        self._notified[index].add(stage)
        if len(self._notified[index]) < len(shared_stages(self.stage, self.pp_size, stages)):
            return False
        self._forget(index)
        return True

    def _forget(self, index: int) -> None:
        self.to_process.discard(index)
        self.leases.pop(index, None)
        self._notified.pop(index, None)


def shared_stages(stage: int, stages: int, others: int) -> list[int]:
    """Stages of a pipeline of ``others`` that share layers with ``stage`` of one of ``stages``."""
    return [
        other
        for other in range(others)
        if other * stages < (stage + 1) * others and stage * others < (other + 1) * stages
    ]


class World:
    """The wire, and what passes between workers."""

    def __init__(self, options: TransferOptions, deliveries: Deliveries) -> None:
        self.options = options
        self.wire = Wire(options)
        self.at = deliveries.at
        self.workers: dict[str, list[PullWorker]] = {}
        self.transfers: list[dict[str, Any]] = []
        self.heartbeats: list[tuple[int, str, str, tuple[int, ...]]] = []
        self.lease_expired: list[tuple[int, str, int, int]] = []
        self.late_reads: set[int] = set()

    def read(self, now: int, reader: PullWorker, read: Read) -> tuple[int, bool]:
        """Post a read: its end, and whether it succeeds."""
        size = read.blocks * reader.block_size * self.options.kv_bytes_per_token // reader.pp_size
        start, end = self.wire.read(now, read.prefill, reader.name, reader.stage, size)
        failing = self.options.failing
        ok = not failing & {(read.request, None), (read.request, reader.stage)}
        self.transfers.append(
            {
                "req_id": read.request,
                "prefill": read.prefill,
                "decode": reader.name,
                "decode_stage": reader.stage,
                "blocks": read.blocks,
                "bytes": size,
                "post_ns": now,
                "start_ns": start,
                "end_ns": end,
                "ok": ok,
            }
        )
        self.at(end, reader.name, lambda: None)
        if ok:
            self.notify(end, reader, read)
        return end, ok

    def notify(self, now: int, reader: PullWorker, read: Read) -> None:
        """Tell the stages whose layers were read."""
        stages = self.workers[read.prefill]
        for stage in shared_stages(reader.stage, reader.pp_size, len(stages)):
            self._send(
                now + self.options.notify_ns,
                stages[stage],
                ("read", (read.request, reader.stage, reader.pp_size)),
            )

    def heartbeat(self, now: int, sender: PullWorker, prefill: str, indices: Iterable[int]) -> None:
        """Renew the leases of requests at all stages of ``prefill``."""
        self.heartbeats.append((now, sender.name, prefill, tuple(sorted(indices))))
        for worker in self.workers[prefill]:
            worker.inbox.append(("heartbeat", tuple(indices)))

    def expired(self, now: int, worker: PullWorker, index: int) -> None:
        """A lease ran out."""
        self.lease_expired.append((now, worker.name, worker.stage, index))

    def _send(self, at_ns: int, worker: PullWorker, message: tuple[str, Any]) -> None:
        self.at(at_ns, worker.name, lambda: worker.inbox.append(message))
