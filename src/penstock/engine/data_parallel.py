"""A data-parallel deployment of a mixture of experts: ranks in lock-step, their front-ends and their coordinator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

from penstock.engine.coordinator import Coordinator, CountsOfRanks
from penstock.engine.front_end import FrontEnd
from penstock.engine.kernel import Agenda, Phase
from penstock.engine.lockstep_replica import LockstepReplica
from penstock.engine.messages import Messages
from penstock.scheduler.request_state import RequestState
from penstock.spec.data_parallel import DataParallelOptions


class DeploymentWatcher(Protocol):
    """Sees what front-ends, ranks and coordinator say; a deployment without one pays nothing for it."""

    def routing(self, now: int, state: RequestState, front_end: FrontEnd) -> None:
        """``front_end`` is about to choose a rank."""
        ...

    def routed(self, state: RequestState, rank: int) -> None:
        """It has chosen."""
        ...

    def said(self, now: int, kind: str, message: tuple[Any, ...]) -> None:
        """A rank's message to the coordinator, or one of the coordinator's ("start_wave", "publish")."""
        ...


class DataParallelDeployment:
    """The processes of one group. Make it first, then its ranks with :meth:`tell` and :meth:`tell_ended`, and give
    them to :meth:`complete`. ``place`` numbers deployments on the agenda."""

    def __init__(self, agenda: Agenda, options: DataParallelOptions, place: int = 0) -> None:
        self.options = options
        self.front_ends = make_front_ends(options)
        self.messages = Messages(agenda)
        self.ranks: list[LockstepReplica] = []
        self.watcher: DeploymentWatcher | None = None
        self.coordinator = Coordinator(agenda, options, self)
        self._latencies = options.latencies
        self._on_the_way_to_ranks = 0
        self._next_front_end = 0
        self._sent_by: dict[int, FrontEnd] = {}
        agenda.add(self.messages, Phase.MESSAGE, place)
        agenda.add(self.coordinator, Phase.CONTROL, place)

    def complete(self, ranks: Sequence[LockstepReplica]) -> None:
        """The ranks, in order."""
        self.ranks = list(ranks)

    # --- requests -------------------------------------------------------------------------------------------

    def choose_front_end(self, rank: int | None) -> FrontEnd:
        """Whom the next request comes to: that of its rank where each rank has its own, else one after the other."""
        if self.options.load_balancing == "external" and rank is not None:
            return self.front_ends[rank]
        self._next_front_end = (self._next_front_end + 1) % len(self.front_ends)
        return self.front_ends[self._next_front_end - 1]

    def take_in(self, now: int, state: RequestState, rank: int) -> int:
        """A request comes, which a router has sent to ``rank``: that counts only where each rank has a front-end of its
        own. Returns the instance that gets it."""
        named = rank if self.options.load_balancing == "external" else None
        return self.ranks[self.route(now, state, self.choose_front_end(named), named)].index

    def route(self, now: int, state: RequestState, front_end: FrontEnd, rank: int | None = None) -> int:
        """A request comes to a front-end, which sends it to a rank: the one that it names, or the one with the
        least load (vLLM ``DPAsyncMPClient.add_request_async``). Returns the rank."""
        self.coordinator.catch_up(now)
        wave, believed_running = front_end.wave, front_end.engines_running
        if self.watcher is not None:
            self.watcher.routing(now, state, front_end)
        if rank is None:
            rank = front_end.choose()
        if self.watcher is not None:
            self.watcher.routed(state, rank)
        front_end.sent(rank)
        self._sent_by[state.request.index] = front_end
        arrives_ns = now + self._latencies.front_end_to_engine_ns
        state.arrived_ns = arrives_ns
        self._on_the_way_to_ranks += 1
        self.messages.send(arrives_ns, self._deliver, rank, state, wave)
        if not believed_running:
            front_end.engines_running = True
            self.messages.send(
                now + self._latencies.front_end_to_coordinator_ns,
                self.coordinator.hear_from_front_end,
                rank,
                wave,
            )
        return rank

    def _deliver(self, at_ns: int, rank: int, state: RequestState, wave: int) -> None:
        self._on_the_way_to_ranks -= 1
        self.ranks[rank].receive(at_ns, state, wave)

    # --- what ranks say -------------------------------------------------------------------------------------

    def tell(self, now: int, kind: str, rank: int, *rest: Any) -> None:
        """A rank's message to the coordinator."""
        if self.watcher is not None:
            self.watcher.said(now, kind, (rank, *rest))
        self.messages.send(
            now + self._latencies.engine_to_coordinator_ns, self.coordinator.hear_from_rank, kind, rank, *rest
        )

    def tell_ended(self, rank: int, now: int, ended: Sequence[RequestState]) -> None:
        """Requests have ended on ``rank``: their front-ends will know."""
        how_many: defaultdict[FrontEnd, int] = defaultdict(int)
        for state in ended:
            how_many[self._sent_by.pop(state.request.index)] += 1
        if self.options.load_balancing == "external":
            return
        for front_end, number in how_many.items():
            arrives_ns = now + self._latencies.engine_to_front_end_ns
            self.messages.send(arrives_ns, front_end.hear_of_ended, rank, number)

    # --- what the coordinator says --------------------------------------------------------------------------

    def start_wave(self, now: int, wave: int, exclude: int | str | None) -> None:
        """See :class:`~penstock.engine.coordinator.Deployment`."""
        if self.watcher is not None:
            self.watcher.said(now, "broadcast", (wave, exclude))
        self._on_the_way_to_ranks += len(self.ranks)
        for replica in self.ranks:
            self.messages.send(
                now + self._latencies.coordinator_to_engine_ns, self._start, replica, wave, exclude
            )

    def _start(self, at_ns: int, replica: LockstepReplica, wave: int, exclude: int | str | None) -> None:
        self._on_the_way_to_ranks -= 1
        replica.start_wave(at_ns, wave, exclude)

    def publish(
        self, now: int, sent_ns: int, counts: CountsOfRanks | None, wave: int, *, running: bool
    ) -> None:
        """See :class:`~penstock.engine.coordinator.Deployment`."""
        if self.watcher is not None:
            self.watcher.said(sent_ns, "publish", (counts, wave, running))
        arrives_ns = sent_ns + self._latencies.coordinator_to_front_end_ns
        for front_end in self.front_ends:
            if sent_ns < now and arrives_ns <= now:
                front_end.hear(arrives_ns, counts, wave, running)
            else:
                self.messages.send(arrives_ns, front_end.hear, counts, wave, running)

    def is_quiet(self) -> bool:
        """See :class:`~penstock.engine.coordinator.Deployment`."""
        return not self._on_the_way_to_ranks and all(replica.is_idle for replica in self.ranks)


def make_front_ends(options: DataParallelOptions) -> list[FrontEnd]:
    """The API servers of a deployment; with hybrid balancing those of the first node come first."""
    if options.load_balancing == "external":
        return [FrontEnd(options, [rank], 0) for rank in range(options.size)]
    per_node = options.size // options.nodes
    return [
        FrontEnd(options, range(node * per_node, (node + 1) * per_node), index)
        for node in range(options.nodes)
        for index in range(options.front_ends)
    ]
