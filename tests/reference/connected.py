"""vLLM's ``Scheduler`` with a KV connector: loads that are waited for, blocks that are held or fenced."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from penstock.spec.options import SchedulerOptions
from penstock.workload.request import Request

from .kv_cache import Block
from .scheduler import (
    Admission,
    Departures,
    ReferenceScheduler,
    RequestState,
    Schedule,
    urgency,
)


@dataclass(slots=True)
class WorkerReport:
    """What the workers of a step saw, over all stages (vLLM's ``KVConnectorOutput``), by request index.

    ``received`` and ``sent`` are done on every stage; ``invalid`` failed on one just now, and ``failed`` are
    those of ``received`` that failed on any.
    """

    received: set[int] = field(default_factory=set)
    sent: set[int] = field(default_factory=set)
    invalid: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    jobs: list[int] = field(default_factory=list)


class Connector(Protocol):
    """The scheduler's side of a KV connector, with vLLM's verbs (``KVConnectorBase_V1``).

    ``consumes``: it writes into blocks while steps run, so freed blocks are fenced. ``hands_over``: what a
    request computed must reach someone (``requires_kv_delivery``), so late tokens are dropped.
    """

    consumes: bool
    hands_over: bool

    def added(self, state: RequestState) -> None:
        """A request arrives (``on_new_request``)."""

    def matched_tokens(self, state: RequestState, local: int) -> int | None:
        """Tokens beyond the ``local`` ones that can be loaded; None: ask again at the next schedule()
        (``get_num_new_matched_tokens``)."""

    def allocated(self, state: RequestState, blocks: Sequence[Block], local_blocks: int, loaded: int) -> None:
        """``blocks`` are the request's, the first ``local_blocks`` of them hits, to load ``loaded`` tokens
        (``update_state_after_alloc``)."""

    def scheduled(self, schedule: Schedule) -> Any:
        """What this step tells the workers (``build_connector_meta``)."""

    def finished(self, state: RequestState) -> bool:
        """Whether the finished request's blocks are to be kept until sent (``request_finished``)."""

    def reported(self, report: WorkerReport) -> None:
        """What the workers saw (``update_connector_output``)."""

    def has_pending_work(self) -> bool:
        """Whether the engine must go on for the connector's sake alone (``has_pending_push_work``)."""


Note = Callable[..., None]


class ConnectedScheduler(ReferenceScheduler):
    """``holding`` waits and holds blocks: loading, or loaded and not yet admitted. It is scanned first.

    ``note`` is called with what the recordings call ``kv_events``.
    """

    def __init__(
        self,
        options: SchedulerOptions,
        num_gpu_blocks: int,
        pp_size: int,
        connector: Connector,
        note: Note,
        *,
        recomputes_failures: bool = True,
    ) -> None:
        departures = Departures(deliver_late_tokens=not connector.hands_over)
        super().__init__(options, num_gpu_blocks, pp_size, departures)
        self.connector = connector
        self.note = note
        self.recomputes_failures = recomputes_failures
        self.states: dict[int, RequestState] = {}
        self.holding: list[RequestState] = []
        self.prefilling: set[RequestState] = set()
        self.loaded: set[int] = set()
        self.failed: set[int] = set()
        self.fenced = connector.consumes and options.max_in_flight > 1
        self.steps_scheduled = 0
        self.steps_updated = 0
        self.last_step_of: dict[int, int] = {}
        self.behind_fence: list[tuple[int, list[Block]]] = []

    @property
    def num_waiting(self) -> int:
        """Requests that were added and do not run, loading ones included."""
        return len(self.waiting) + len(self.holding)

    def add(self, request: Request) -> RequestState:
        """A request arrives."""
        state = super().add(request)
        self.states[request.index] = state
        self.connector.added(state)
        return state

    def has_requests(self) -> bool:
        """Also true while a finished request's blocks are held, or the connector has work."""
        held = len(self.states) > len(self.running) + self.num_waiting
        return super().has_requests() or held or self.connector.has_pending_work()

    def schedule(self, *, throttle_prefills: bool = False) -> Schedule:
        """Decide the next step, and what it tells the workers."""
        result = super().schedule(throttle_prefills=throttle_prefills)
        result.metadata = self.connector.scheduled(result)
        if result.chunks:
            self.steps_scheduled += 1
            for chunk in result.chunks:
                self.last_step_of[chunk.state.request.index] = self.steps_scheduled
        return result

    def update_with(
        self, schedule: Schedule, report: WorkerReport
    ) -> tuple[list[tuple[RequestState, bool]], list[RequestState]]:
        """A step is back: its tokens, and the requests that ended because their KV could not be loaded."""
        if schedule.chunks:
            self.steps_updated += 1
            self._lift_fence()
        unloadable = self._take_failures(report)
        delivered = self.update(schedule)
        ended = [self.states[index] for index in sorted(unloadable)]
        for state in ended:
            self.end(state)
        self.connector.reported(report)
        for index in sorted(report.received):
            self.note("recv_reported", index, failed=index in report.failed)
        for index in sorted(report.sent):
            self.note("send_reported", index)
        for index in sorted(report.received):
            state = self.states[index]
            if state.status == "loading":
                self.loaded.add(index)
            else:
                self._give_up(state)
        for index in sorted(report.sent):
            self._give_up(self.states[index])
        return delivered, ended

    def end(self, state: RequestState) -> None:
        """A request ends from outside: its client left, or its KV could not be loaded (``finish_requests``)."""
        for queue in (self.running, self.waiting, self.holding):
            if state in queue:
                queue.remove(state)
        index = state.request.index
        still_loading = state.status == "loading" and index not in self.loaded
        self.loaded.discard(index)
        self.failed.discard(index)
        self._leave(state, keep_blocks=still_loading, status="ended")

    def _take_failures(self, report: WorkerReport) -> set[int]:
        """Under ``recompute`` a failed load counts as nothing computed; else the requests it ends."""
        failures = {
            index
            for index in report.invalid | report.failed
            if index in self.states and self.states[index].status == "loading"
        }
        if not self.recomputes_failures:
            return failures
        self.failed |= failures
        for index in failures & report.failed:
            self.states[index].computed = 0
        return set()

    def _schedule_waiting(
        self, result: Schedule, budget: int, threshold: int, *, defer: bool = False
    ) -> None:
        skipped_waiting: list[RequestState] = []
        skipped_holding: list[RequestState] = []
        while budget > 0 and len(self.running) < self.options.max_num_seqs:
            queue = self.holding or self.waiting
            if not queue or (self.allowance is not None and self.allowance.admissions <= 0):
                break
            state = queue[0]
            new = self._consider(state, queue, budget, threshold, result)
            if new is None:
                break
            budget -= new
            if new == 0:
                queue.remove(state)
                holds_blocks = state.computed > 0 or state.status == "loading"
                (skipped_holding if holds_blocks else skipped_waiting).append(state)
        self._put_back(self.holding, skipped_holding)
        self._put_back(self.waiting, skipped_waiting)

    def _put_back(self, queue: list[RequestState], skipped: Sequence[RequestState]) -> None:
        if not self.by_priority:
            queue[:0] = skipped
            return
        for state in skipped:
            insort(queue, state, key=urgency)

    def _consider(
        self, state: RequestState, queue: list[RequestState], budget: int, threshold: int, result: Schedule
    ) -> int | None:
        """Tokens of ``state`` that go into the step; 0: go on to the next; None: the scan ends here."""
        index = state.request.index
        if state.status == "loading":
            if index not in self.loaded:
                return 0
            self._promote(state)
        if state.stale_tokens > 0 and self.departures.deliver_late_tokens:
            return 0
        hits: list[Block] = []
        load = 0
        start = state.computed
        if state.computed == 0:
            hits = self.kv.find_hits(state.contents, state.num_tokens - 1)
            local = len(hits) * self.options.block_size
            matched = self.connector.matched_tokens(state, local)
            if matched is None:
                return 0
            load, start = matched, local + matched
        new = 0
        if not load:
            new = state.num_tokens - start
            if 0 < threshold < new:
                new = threshold
            room = self._permitted(state, budget, start)
            if room == 0 or (new > room and not self.options.enable_chunked_prefill):
                return None
            new = min(new, room)
        kept_free = self._blocks_still_needed() if load else 0
        if not self._fits(state, hits, start + new, kept_free):
            return None
        self.kv.allocate(index, start + new, hits)
        if not load:
            self.kv.hash_full_blocks(index, state.contents, min(start + new, state.num_tokens))
        self.connector.allocated(state, self.kv.blocks_of(index), len(hits), load)
        resumed = state.preempted
        state.computed = start
        if load:
            state.status = "loading"
            self.prefilling.add(state)
            self.note("load_admitted", index, external_tokens=load, blocks_held=self.kv.held(index))
            return 0
        queue.remove(state)
        self.running.append(state)
        result.admissions.append(Admission(state, start, state.num_tokens, resumed))
        state.status = "running"
        if start + new < state.num_tokens:
            self.prefilling.add(state)
        self._enter(result, self._chunk(state, new))
        if self.allowance is not None:
            self.allowance.admissions -= 1
        return new

    def _promote(self, state: RequestState) -> None:
        """A load is over (``_update_waiting_for_remote_kv``): its full blocks can be hit, and its last token is
        computed again; one that failed starts from nothing."""
        index = state.request.index
        self.loaded.discard(index)
        if index in self.failed:
            self.failed.discard(index)
            self.kv.release(index)
        else:
            self.kv.hash_full_blocks(index, state.contents, state.computed)
        if state.computed == state.num_tokens:
            state.computed -= 1
        state.status = "preempted" if state.preempted else "waiting"
        self.note("load_promoted", index, num_computed=state.computed)

    def _blocks_still_needed(self) -> int:
        """Blocks that prefills in flight and loads lack to hold all their tokens."""
        return sum(
            max(
                self.kv.blocks_for(min(state.num_tokens, self.options.max_model_len))
                - self.kv.held(state.request.index),
                0,
            )
            for state in self.prefilling
        )

    def _fits(self, state: RequestState, hits: Sequence[Block], tokens: int, kept_free: int) -> bool:
        kept_back = self.watermark_blocks if self.running else 0
        index, free = state.request.index, len(self.kv.free)
        if self.options.reserve_full_isl:
            whole = min(state.num_tokens, self.options.max_model_len)
            if self.kv.blocks_needed(index, whole, hits) + kept_back > free:
                return False
        return self.kv.blocks_needed(index, tokens, hits) + kept_back <= free - kept_free

    def _advance(self, result: Schedule) -> None:
        super()._advance(result)
        self.prefilling -= {chunk.state for chunk in result.chunks if chunk.samples}

    def _may_lose_blocks(self, victim: RequestState) -> bool:
        """Whether no step that is in flight may still write into the victim's blocks."""
        return not self.fenced or self.last_step_of.get(victim.request.index, 0) <= self.steps_updated

    def _preempt(self, victim: RequestState, result: Schedule) -> int:
        tokens = super()._preempt(victim, result)
        victim.preempted = True
        self.prefilling.discard(victim)
        return tokens

    def _finish(self, state: RequestState) -> None:
        self._leave(state, keep_blocks=False, status="finished")

    def _leave(self, state: RequestState, *, keep_blocks: bool, status: str) -> None:
        """vLLM's ``_free_request``."""
        state.status = status
        self.prefilling.discard(state)
        keep_blocks |= self.connector.finished(state)
        self.finished_since_schedule = True
        if not keep_blocks:
            self._give_up(state)

    def _give_up(self, state: RequestState) -> None:
        """Nobody needs the finished request's blocks any more (``_free_blocks``)."""
        self._free_blocks(state)
        del self.states[state.request.index]
        self.note("blocks_freed", state.request.index)

    def _free_blocks(self, state: RequestState) -> None:
        index = state.request.index
        if self._may_lose_blocks(state):
            self.kv.release(index)
        elif blocks := self.kv.take_from(index):
            self.behind_fence.append((self.steps_scheduled, blocks))

    def _lift_fence(self) -> None:
        while self.behind_fence and self.behind_fence[0][0] <= self.steps_updated:
            self.kv.give_back(self.behind_fence.pop(0)[1])


def aggregate(
    stages: Iterable[WorkerReport], reported: dict[tuple[str, int], int], pp_size: int
) -> WorkerReport:
    """The reports of a step's stages as one (``KVOutputAggregator``): a transfer counts when all stages have
    reported it; ``reported`` remembers how many have, over the steps."""
    whole = WorkerReport()
    for report in stages:
        for kind, done, seen in (
            ("recv", whole.received, report.received),
            ("send", whole.sent, report.sent),
        ):
            for index in seen:
                count = reported.pop((kind, index), 0) + 1
                if count == pp_size:
                    done.add(index)
                else:
                    reported[kind, index] = count
        whole.invalid |= report.failed
        whole.jobs += report.jobs
        for index in report.failed:
            reported["failed", index] = 1
    whole.failed = {index for index in whole.received if reported.pop(("failed", index), 0)}
    return whole
