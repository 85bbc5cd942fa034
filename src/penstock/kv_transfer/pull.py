"""vLLM's NIXL pull connector, scheduler side (``kv_connector/v1/nixl/pull_scheduler.py``).

One instance computes a prompt and keeps its blocks under a lease; another reads them, and computes the last token of
the prompt again for the first of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.scheduler.kv_connector import NO_MATCH, Match, TransferReport
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.scheduler.step import Step
from penstock.units import NEVER_NS, NS_PER_S


@dataclass(frozen=True, slots=True)
class PullOptions:
    """How an instance takes part. ``role``: kv_producer | kv_consumer | kv_both. ``recomputes_failures``: a prompt
    whose KV could not be read is computed here; otherwise its request ends with an error, as vLLM does by default
    (``kv_load_failure_policy``). ``lease_s``: how long the blocks of a prompt are kept for its reader, unless that
    renews the lease (``kv_lease_duration``). ``looks_at_end``: workers look for finished transfers when the forward
    of a step is over, not when it was launched."""

    role: str
    recomputes_failures: bool = False
    lease_s: int = 30
    looks_at_end: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """What is to be read from instance ``source``: ``blocks`` of a request's; 0: only say that nothing will be."""

    request: int
    source: int
    blocks: int


@dataclass(slots=True)
class Orders:
    """What a step tells the workers. ``held``: requests whose blocks are kept, and when their leases end;
    ``renewed``: requests, by source, whose leases are to be renewed."""

    scheduled_ns: int
    reads: list[Read] = field(default_factory=list)
    admitted: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    held: dict[int, int] = field(default_factory=dict)
    renewed: Mapping[int, frozenset[int]] = field(default_factory=dict)


class PullConnector:
    """A :class:`~penstock.scheduler.kv_connector.KVConnector`. ``latest`` are steps with something to
    tell the workers, by number, that those have not taken."""

    def __init__(self, options: PullOptions) -> None:
        self.options = options
        self.writes_blocks = options.role in ("kv_consumer", "kv_both")
        self.must_deliver = options.role in ("kv_producer", "kv_both")
        self.loading: dict[int, RequestState] = {}
        self.sending: dict[int, RequestState] = {}
        self.report: TransferReport | None = None
        self._lease_ns = options.lease_s * NS_PER_S
        self._renewal_ns = options.lease_s // 6 * NS_PER_S
        self._sources: dict[int, int] = {}
        self._for_others: set[int] = set()
        self._renewing: dict[int, int] = {}
        self._renewed_ns: int | None = None
        self._orders = Orders(0)
        self._has_orders = False
        # Requests that ended while they were being read for; those whose read ends with the report that fails them.
        self._ended: set[int] = set()
        self._read_and_failed: set[int] = set()
        self.latest: list[tuple[int, Orders]] = []

    def expect(self, request: int, source: int) -> None:
        """The KV of a request that is about to come lies at instance ``source``."""
        self._sources[request] = source

    def keep_for_reader(self, request: int) -> None:
        """The prompt of a request that is about to come is computed for another instance."""
        self._for_others.add(request)

    # --- what the scheduler asks ----------------------------------------------------------------------------

    def added(self, state: RequestState) -> None:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`. Leases are renewed from here on."""
        source = self._sources.get(state.request.index)
        if source is not None:
            self._renewing[state.request.index] = source

    def matched_tokens(self, state: RequestState, computed: int) -> Match | None:
        """The rest of the prompt, once."""
        if state.request.index not in self._sources:
            return NO_MATCH
        rest = state.request.input_tokens - computed
        return Match(rest, loads=True) if rest > 0 else NO_MATCH

    def allocated(self, state: RequestState, hit_blocks: int, external_tokens: int) -> None:
        """Blocks beyond the hit are read; none, if the tokens are another connector's to fill or all were hit."""
        index = state.request.index
        if index in self._for_others:
            self._orders.admitted.append(index)
            self._has_orders = True
            return
        source = self._sources.pop(index, None)
        if source is not None:
            blocks = state.held_blocks - hit_blocks if external_tokens else 0
            self._orders.reads.append(Read(index, source, blocks))
            self._has_orders = True
            if blocks:
                self.loading[index] = state

    def scheduled(self, step: Step, now: int) -> None:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        orders = self._orders
        if self._renewing and (self._renewed_ns is None or now - self._renewed_ns >= self._renewal_ns):
            self._renewed_ns = now
            renewed: dict[int, set[int]] = {}
            for index, source in self._renewing.items():
                renewed.setdefault(source, set()).add(index)
            orders.renewed = {source: frozenset(indices) for source, indices in renewed.items()}
            self._has_orders = True
        if self._has_orders:
            orders.scheduled_ns = now
            self.latest.append((step.number, orders))
            self._orders = Orders(0)
            self._has_orders = False

    def reported(self, now: int) -> TransferReport | None:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        report, self.report = self.report, None
        return report

    def finished(self, state: RequestState, now: int) -> bool:
        """A prompt computed for others is kept; so are blocks that are being read into."""
        index = state.request.index
        self._renewing.pop(index, None)
        if index in self._for_others:
            self._for_others.discard(index)
            self._has_orders = True
            if state.outcome is not Outcome.FINISHED:
                self._orders.dropped.append(index)
                return False
            self._orders.held[index] = now + self._lease_ns
            self.sending[index] = state
            return True
        source = self._sources.pop(index, None)
        if source is not None:
            self._orders.reads.append(Read(index, source, 0))
            self._has_orders = True
        if index not in self.loading:
            return False
        if index in self._read_and_failed:
            self._read_and_failed.discard(index)
            del self.loading[index]
        else:
            self._ended.add(index)
        return True

    def quiet_until_ns(self) -> int:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`. Leases are to be renewed now and then."""
        if self._has_orders or self.latest or self.report is not None:
            return 0
        if not self._renewing:
            return NEVER_NS
        return 0 if self._renewed_ns is None else self._renewed_ns + self._renewal_ns

    def has_work(self) -> bool:
        """A pull asks nothing of an engine without requests."""
        return False

    # --- what the workers tell ------------------------------------------------------------------------------

    def bring(self, received: list[int], sent: list[int], failing: list[int], failed: set[int]) -> None:
        """Transfers that ended on all stages: reads ``received``, those of them that ``failed`` somewhere, and
        ``sent`` ones of others; ``failing``: reads that failed on some stage just now."""
        report = TransferReport()
        if not self.options.recomputes_failures:
            unloadable = {index for index in failing if index in self.loading and index not in self._ended}
            report.unloadable = [self.loading[index] for index in sorted(unloadable)]
            self._read_and_failed = unloadable.intersection(received)
        for index in sorted(received):
            state = self.loading[index]
            self._renewing.pop(index, None)
            if index in self._read_and_failed:
                report.released.append(state)
                continue
            del self.loading[index]
            if index in self._ended:
                self._ended.discard(index)
                report.released.append(state)
                continue
            report.loaded.append(state)
            if index in failed:
                report.discarded.add(state)
        report.released += [self.sending.pop(index) for index in sorted(sent)]
        self.report = report
